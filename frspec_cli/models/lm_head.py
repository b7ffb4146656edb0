"""The LM head applied by hand, over all rows or a subset's: the one place where frspec does that.

A target's own logits always come from the model's forward (`out.logits`). A draft head, though, needs the target's LM
head over its own hidden states and, in FR-Spec, over the subset's rows only. What families do around that product
(Granite divides, Cohere multiplies, Gemma-2 soft-caps) stands in one small table here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from frspec_cli.errors import FrspecError


@dataclass(frozen=True)
class LmHead:
    """`logits = softcap * tanh((hidden @ weight.T + bias) * scale / softcap)`.

    weight: [R, H], contiguous, R rows (the whole vocabulary or a subset, in the subset's order). bias: [R] or None.
    ids: int64 [R], the target's token id of each row, or None where row i is token i.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    ids: torch.Tensor | None = None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., H] -> logits [..., R], in hidden's dtype."""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def rows(self, ids: torch.Tensor) -> LmHead:
        """The head that computes only the tokens `ids` (int64 [K]), gathered once into contiguous memory."""
        if self.ids is not None:
            raise ValueError("rows() is taken from a head over the whole vocabulary")
        ids = ids.to(self.weight.device, torch.int64)
        bias = None if self.bias is None else self.bias[ids].contiguous()
        return LmHead(self.weight[ids].contiguous(), bias, self.scale, self.softcap, ids)

    def restrict(self, ids: torch.Tensor) -> LmHead:
        """Of a head over some tokens: those of `ids` (int64 [K]) that it has, in the order of `ids`.

        An EAGLE-3 head has trained rows for its own tokens only, so it can shrink but not learn others. Raises
        `FrspecError` when none is left.
        """
        if self.ids is None:
            return self.rows(ids)
        place = {token: row for row, token in enumerate(self.ids.tolist())}
        kept = [place[token] for token in ids.tolist() if token in place]
        if not kept:
            raise FrspecError("the draft head's own vocabulary and the subset have no token in common.")
        rows = torch.tensor(kept, device=self.weight.device)
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


def lm_head_of(model: Any) -> LmHead:
    """The LM head of a transformers causal LM, over its whole vocabulary.

    Raises `FrspecError` when the output embedding is no plain `Linear`: then nothing can be said of single rows.
    """
    output = model.get_output_embeddings()
    if type(output) is not torch.nn.Linear:
        raise FrspecError(
            f"the LM head of {type(model).__name__} is a {type(output).__name__}, not a plain Linear, so its rows cannot "
            "be taken apart for a draft."
        )
    config = model.config.get_text_config()
    scale, softcap = logit_transform(config)
    return LmHead(output.weight.detach(), None if output.bias is None else output.bias.detach(), scale, softcap)


def logit_transform(config: Any) -> tuple[float, float | None]:
    match config.model_type:
        case "granite" | "granitemoe":
            return 1.0 / config.logits_scaling, None
        case "cohere" | "cohere2":
            return config.logit_scale, None
        case "gemma2" | "gemma3_text" | "gemma3":
            return 1.0, config.final_logit_softcapping
        case _:
            return 1.0, None
