"""The LM head applied by hand, over all rows or a subset's: the only place where frspec does that.

A target's own logits always come from the model's forward (`out.logits`). A draft head, though, needs the target's LM
head over its own hidden states and, in FR-Spec, over the subset's rows only. What families do to that product (Granite
divides, Cohere multiplies, Gemma-2 soft-caps) is one small table here, and each model is checked against it.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch

from frspec_cli.errors import FrspecError
from frspec_cli.models.finite import is_finite


@dataclass(frozen=True)
class LmHead:
    """`logits = softcap * tanh((hidden @ weight.T + bias) * scale / softcap)`.

    weight: [R, H], contiguous; R rows are the whole vocabulary or a subset, in the subset's order.
    bias: [R] or None.
    ids: int64 [R], the target's token id of each row, or None if row i is token i.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    ids: torch.Tensor | None = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., H] -> logits [..., R], in hidden's dtype."""
        return self.transform(torch.nn.functional.linear(hidden, self.weight, self.bias))

    def transform(self, logits: torch.Tensor) -> torch.Tensor:
        """What the family does to the product: scale, then soft-cap."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def rows(self, ids: torch.Tensor) -> LmHead:
        """The head over only the tokens `ids` (int64 [K]), gathered once into contiguous memory."""
        if self.ids is not None:
            raise ValueError("rows() is taken from a head over the whole vocabulary")
        ids = ids.to(self.weight.device, torch.int64)
        bias = None if self.bias is None else self.bias[ids].contiguous()
        return LmHead(self.weight[ids].contiguous(), bias, self.scale, self.softcap, ids)

    def restrict(self, ids: torch.Tensor) -> LmHead:
        """The head over those of `ids` (int64 [K]) that it has rows for, in the order of `ids`.

        An EAGLE-3 head has trained rows for its own tokens only, so it can shrink but not learn others.
        Raises `FrspecError` if none is left.
        """
        if self.ids is None:
            return self.rows(ids)
        row_of = {token: row for row, token in enumerate(self.ids.tolist())}
        row_numbers = [row_of[token] for token in ids.tolist() if token in row_of]
        if not row_numbers:
            raise FrspecError("the draft head's own vocabulary and the subset have no token in common.")
        rows = torch.tensor(row_numbers, device=self.weight.device)
        bias = None if self.bias is None else self.bias[rows].contiguous()
        return LmHead(self.weight[rows].contiguous(), bias, self.scale, self.softcap, self.ids[rows])

    def to_token_ids(self, row: torch.Tensor) -> torch.Tensor:
        """Row numbers (any shape) -> the target's token ids."""
        return row if self.ids is None else self.ids[row]

    @property
    def size(self) -> int:
        """Number of rows R."""
        return self.weight.shape[0]

    @property
    def bytes(self) -> int:
        """Memory of the rows in bytes."""
        return sum(t.numel() * t.element_size() for t in (self.weight, self.bias) if t is not None)


_CHECKED: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


def lm_head_of(model: Any) -> LmHead:
    """The LM head of a transformers causal LM, over its whole vocabulary.

    Raises `FrspecError` if the output embedding is not a plain `Linear`, so that nothing is known about single rows, or if
    the model's logits are not this head over its last hidden state (checked once for each model, by one forward pass), or
    if a weight of it is not finite.
    """
    output = model.get_output_embeddings()
    if type(output) is not torch.nn.Linear:
        raise FrspecError(
            f"the LM head of {type(model).__name__} is a {type(output).__name__}, not a plain Linear, so its rows cannot "
            "be used one by one for a draft."
        )
    scale, softcap = logit_transform(model.config.get_text_config())
    head = LmHead(output.weight.detach(), None if output.bias is None else output.bias.detach(), scale, softcap)
    if model not in _CHECKED:
        if not is_finite(head.weight):
            raise FrspecError("the target's LM head holds NaN or infinity.", hint="Get the model again.")
        check_lm_head(model, head)
        _CHECKED.add(model)
    return head


def logit_transform(config: Any) -> tuple[float, float | None]:
    """What a family does to its LM head's output, from its text config: (scale, soft-cap or None)."""
    match config.model_type:
        case "granite" | "granite_swa" | "granitemoe" | "granitemoe_swa" | "granitemoeshared":
            scale = 1.0 / config.logits_scaling
        case "hyperclovax":
            scale = config.logits_scaling
        case "cohere" | "cohere2" | "cohere2_moe" | "cohere_compass_text":
            scale = config.logit_scale
        case _:
            scale = 1.0
    return scale, getattr(config, "final_logit_softcapping", None)


@torch.no_grad()
def check_lm_head(model: Any, head: LmHead) -> None:
    """Raises `FrspecError` unless `head` over the last hidden state gives the model's logits.

    Small logits hardly show a soft-cap, and low precision hides a small scale. So a probe from -40 to 40 takes the place of
    the LM head's output: what the model makes of it must be `head.transform` of it, and what the LM head was given must be
    the last hidden state.
    """
    inputs: list[torch.Tensor] = []
    probes: list[torch.Tensor] = []

    def replace_output(
        module: torch.nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        inputs.append(arguments[0])
        probes.append(torch.linspace(-40, 40, output.numel(), device=output.device).to(output.dtype).view_as(output))
        return probes[-1]

    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[vocabulary // 3, vocabulary // 2]], device=model.device)
    hook = model.get_output_embeddings().register_forward_hook(replace_output)
    try:
        out = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    finally:
        hook.remove()
    if len(probes) != 1 or out.logits.shape != probes[0].shape:
        raise _unknown_head(model, "whose logits are not the output of one LM head, row by row")
    if not torch.equal(inputs[0], out.hidden_states[-1]):
        raise _unknown_head(model, "whose LM head reads something else than the last hidden state")
    ours, theirs = (logits.double() for logits in (head.transform(probes[0]), out.logits))
    rounding = 2 * max(torch.finfo(logits.dtype).eps for logits in (probes[0], out.logits))
    if not torch.allclose(ours, theirs, rtol=rounding, atol=rounding):
        raise _unknown_head(model, "which changes its LM head's output in a way that frspec does not know")


def _unknown_head(model: Any, reason: str) -> FrspecError:
    family = model.config.get_text_config().model_type
    return FrspecError(
        f"frspec cannot draft for the model family {family}, {reason}.",
        hint="Plain decoding and drafts looked up in the text need no LM head.",
    )
