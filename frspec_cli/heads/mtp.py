"""The target's own multi-token-prediction (MTP) modules as a draft head: layers in the target's checkpoint.

Their layers are transformers' (`MtpModel`), and so is the alignment: pair i is (token i+1, the target's post-norm state at i)
at position i+1, as in an EAGLE head but for the position. What a module's own last norm yields goes into the target's LM
head. Engines with a single module use it for every step: transformers would feed that back as the state of the next step, as
Qwen's modules are run; others feed back what the norm was given, and some of them read the target's state before its norm.
Several modules are for a step each (`decoding.modules_drafter`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from frspec_cli.errors import FrspecError, option
from frspec_cli.heads.layer import KeyValueCache
from frspec_cli.heads.options import MTP
from frspec_cli.models.embedding import first_rows
from frspec_cli.models.finite import is_finite
from frspec_cli.models.lm_head import LmHead
from frspec_cli.models.target import Target
from frspec_cli.models.weight_files import weight_files

_NUMBERED = re.compile(r"(?:^|\.)layers\.(\d+)\.(?:enorm|hnorm|eh_proj)\.")
"""GLM-4 MoE and others: the modules are layers behind the last one."""
_OWN_ROWS = re.compile(r"(^mtp|\.\d+)\.(embed_tokens|shared_head\.head|lm_head)\.weight$")
_COMPARED = 256
"""Rows of an embedding or an LM head that tell a copy from another one."""
_QWEN = re.compile(r"^mtp\.layers\.(\d+)\.self_attn\.")
"""Qwen3-Next, Qwen3.5: one module beside the model, with `fc` and its norms above its layer."""


@dataclass(frozen=True)
class MtpSize:
    """A module's sizes and reading, in the words of `HeadConfig`."""

    num_key_value_heads: int
    head_dim: int
    hidden_size: int
    window: int | None
    norm_output: bool
    norm_before_residual: bool = False
    layers: int = 1


class MtpHead(nn.Module):
    """One module with the interface of a draft head.

    mtp: transformers' MtpModel, tied to the target's embedding and rotary positions.
    number: of the module in it.
    norm_output: whether the normed output is fed back, or what the norm was given.
    unnorm: [H], the factors of the target's final norm if the module reads the state before it, up to its size (which the
        module's own norm of it does not see); None for the state behind it.
    """

    own_lm_head: LmHead | None = None
    taps: tuple[int, ...] = ()
    unnorm: torch.Tensor | None

    def __init__(
        self, mtp: Any, *, number: int = 0, norm_output: bool = True, unnorm: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.mtp, self.number = mtp, number
        self.register_buffer("unnorm", unnorm, persistent=False)
        config, layer = mtp.config, mtp.layers[number]
        self.norm = layer.post_norm if layer.use_post_norm else getattr(mtp, "shared_post_norm", nn.Identity())
        layer.use_post_norm = False  # applied here
        self.config = MtpSize(
            num_key_value_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            hidden_size=config.hidden_size,
            window=config.sliding_window if _layer_type(config, number) == "sliding_attention" else None,
            norm_output=norm_output,
        )

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, T] -> the target's embeddings [B, T, H]."""
        return self.mtp.embed_tokens(token_ids)

    def fuse(self, last: torch.Tensor, taps: tuple[torch.Tensor, ...] = ()) -> torch.Tensor:
        """The target's post-norm last state, [B, T, H], as it is, or the direction that it had before the norm."""
        return last if self.unnorm is None else last / self.unnorm

    def forward(
        self,
        embeddings: torch.Tensor,
        features: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        caches: Sequence[KeyValueCache] = (),
    ) -> torch.Tensor:
        """One step over T positions: what is fed back, [B, T, H].

        embeddings: [B, T, H] of the next tokens.
        features: [B, T, H].
        position_ids: int64 [B, T], of the states; the module counts from the next tokens.
        attention_mask: additive [B or 1, 1, T, L]; L = T without caches.
        caches: the layer's, or none.
        """
        positions = position_ids + 1
        hidden = self.mtp.layers[self.number](
            embeddings,
            features,
            position_embeddings=self._rotary(embeddings, positions),
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=_OneLayer(caches[0]) if caches else None,
        )
        return self.norm(hidden) if self.config.norm_output else hidden

    def lm_input(self, hidden: torch.Tensor) -> torch.Tensor:
        """The LM head's input: the normed output."""
        return hidden if self.config.norm_output else self.norm(hidden)

    def _rotary(self, embeddings: torch.Tensor, positions: torch.Tensor) -> Any:
        if self.mtp.rotary_emb is None:
            return None
        kinds = {"layer_type": self.mtp.config.layer_types[self.number]} if self.mtp.has_per_layer_rope else {}
        return self.mtp.rotary_emb(embeddings, position_ids=positions, **kinds)


class MtpModules(nn.Module):
    """Several modules, each for its step. By itself it is the first one; `decoding.modules_drafter` runs the others behind it.

    config: layers is their number, and hidden_size that of all their outputs side by side.
    """

    own_lm_head: LmHead | None = None
    taps: tuple[int, ...] = ()

    def __init__(self, modules: Sequence[MtpHead]) -> None:
        super().__init__()
        self.in_order = nn.ModuleList(modules)
        first = modules[0].config
        self.config = replace(first, layers=len(modules), hidden_size=len(modules) * first.hidden_size)

    @property
    def modules_in_order(self) -> list[MtpHead]:
        """By step."""
        return [module for module in self.in_order if isinstance(module, MtpHead)]

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int64 [B, T] -> the target's embeddings [B, T, H]."""
        return self.modules_in_order[0].embed(token_ids)

    def fuse(self, last: torch.Tensor, taps: tuple[torch.Tensor, ...] = ()) -> torch.Tensor:
        """As the first module's."""
        return self.modules_in_order[0].fuse(last)

    def forward(
        self,
        embeddings: torch.Tensor,
        features: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        caches: Sequence[KeyValueCache] = (),
    ) -> torch.Tensor:
        """The first module's step."""
        return self.modules_in_order[0](embeddings, features, position_ids, attention_mask, caches)

    def lm_input(self, hidden: torch.Tensor) -> torch.Tensor:
        """As the first module's."""
        return self.modules_in_order[0].lm_input(hidden)


class _OneLayer:
    """One layer's cache as transformers' layers call it: with their number, which is 0 here."""

    def __init__(self, layer: KeyValueCache) -> None:
        self.layer = layer

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, number: int, *args: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layer.update(keys, values)


def _layer_type(config: Any, number: int) -> str:
    """Of a module, from the modules' own config."""
    return (getattr(config, "layer_types", None) or ["full_attention"] * (number + 1))[number]


def load_mtp(target: Target, *, norm_output: bool | None = None, before_norm: bool = False) -> MtpHead | MtpModules:
    """The MTP modules of the target's checkpoint, ready to draft.

    before_norm: read the target's state before its final norm.
    norm_output: as in `MtpHead`; None for a normed output behind normed states, and one as it is behind states as they are.

    Raises `FrspecError` if the checkpoint has none, if transformers cannot load those of its family, or if frspec cannot run
    them.
    """
    from transformers.modeling_layers import MtpModel

    count = _declare_modules(target)
    kinds = list(dict.fromkeys((getattr(target.config, "mtp_layer_types", None) or ["full_attention"])[:count]))
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise _refused(
                target, f"has an MTP module with a {kind} layer: frspec runs only full and sliding attention"
            )
    if len(kinds) > 1:
        raise _refused(
            target, f"has MTP modules of unlike attention ({', '.join(kinds)}), which frspec cannot run together"
        )
    _refuse_own_rows(target)
    try:
        mtp = MtpModel.from_pretrained(target.model, device_map={"": target.device})
    except Exception as error:  # whatever it comes across: missing tensors, fields that a family's config lacks
        raise _refused(
            target, f"has an MTP module that transformers cannot load: {_first_line(error, target)}"
        ) from error
    _check(target, mtp)
    normed = not before_norm if norm_output is None else norm_output
    unnorm = _factors(target) if before_norm else None
    modules = [MtpHead(mtp, number=number, norm_output=normed, unnorm=unnorm) for number in range(count)]
    head = modules[0] if count == 1 else MtpModules(modules)
    return head.requires_grad_(False).eval()


@torch.no_grad()
def _factors(target: Target) -> torch.Tensor:
    """[H], the factors of the target's final norm. Raises `FrspecError` if one is 0: what it hid cannot be had back."""
    norm, like = target.model.get_decoder().norm, target.embedding
    factors = norm(torch.ones(like.shape[1], dtype=like.dtype, device=like.device))
    if not bool((factors != 0).all()):
        raise _refused(target, "has a final norm with a factor of 0, before which no state can be read")
    return factors


def _declare_modules(target: Target) -> int:
    """How many modules the checkpoint holds, by its tensors' names; transformers is told what a config leaves out.

    It looks for the modules of GLM-4 MoE under the layer numbers of the published sizes only, and Qwen's configs do not state
    theirs in its words (`num_mtp_layers`, `mtp_layer_types`).
    """
    config, layers = target.config, target.config.num_hidden_layers
    names = list(weight_files(target.folder))
    numbered = numbered_modules(names, layers)
    stated = getattr(config, "num_mtp_layers", None)
    if numbered and stated:
        last = layers + stated
        if numbered != set(range(layers, last)):
            raise _refused(
                target,
                f"states {stated} MTP modules in its config, and its checkpoint holds those of layers "
                f"{', '.join(map(str, sorted(numbered)))}",
            )
        target.model._keys_to_ignore_on_load_unexpected = [
            rf"(^|\.)layers\.{number}\." for number in range(layers, last)
        ]
        return stated
    single = {int(match[1]) for match in map(_QWEN.match, names) if match}
    if single:
        if stated is None:
            config.num_mtp_layers, config.mtp_layer_types = len(single), ["full_attention"] * len(single)
        return len(single)
    if stated is None:
        raise _refused(target, "has no MTP module that transformers knows: its config states no `num_mtp_layers`")
    raise _refused(target, "has no MTP module in its checkpoint, which may have been saved without it")


def _check(target: Target, mtp: Any) -> None:
    """Refuses what would draft badly without a word: a norm of another kind, and numbers that are not finite."""
    norm = type(target.model.get_decoder().norm)
    if type(mtp.layers[0].enorm) is not norm:
        raise _refused(
            target,
            f"has an MTP module to which transformers gives norms of the kind {type(mtp.layers[0].enorm).__name__}, where "
            f"the model's is {norm.__name__}",
        )
    for name, tensor in mtp.layers.state_dict().items():
        if not is_finite(tensor):
            raise _refused(target, f"has NaN or infinity in its MTP module's {name}")


def _refuse_own_rows(target: Target) -> None:
    """An embedding or an LM head in the module is mostly a copy of the target's. Of another one transformers would ignore the
    LM head, and (5.23) load an embedding into the target itself."""
    for name in filter(_OWN_ROWS.search, weight_files(target.folder)):
        number = re.search(r"layers\.(\d+)\.", name)
        if number is not None and int(number[1]) < target.config.num_hidden_layers and not name.startswith("mtp."):
            continue
        theirs = target.embedding if "embed" in name else target.lm_head.weight
        begin = first_rows(target.folder, name, _COMPARED)
        if not torch.equal(begin.to(theirs.device, theirs.dtype), theirs[: len(begin)]):
            raise _refused(
                target,
                f"has an MTP module with rows of its own ({name}), which transformers cannot load beside the target's",
            )


def numbered_modules(names: Sequence[str], layers: int) -> set[int]:
    """The numbers of the modules that are layers behind a model's `layers`."""
    found = (int(match[1]) for match in map(_NUMBERED.search, names) if match)
    return {number for number in found if number >= layers}


def _refused(target: Target, reason: str) -> FrspecError:
    return FrspecError(
        f"{option('draft')} {MTP}: {target.name} (family {target.config.model_type}) {reason.rstrip('.')}.",
        hint=f"Name a draft head with {option('draft')}, or train one: frspec collect, then frspec train-draft.",
    )


def _first_line(error: Exception, target: Target) -> str:
    """What transformers says, without the path that it repeats and its question at the end."""
    said = " ".join(str(error).split()) or type(error).__name__
    said = said.replace(f" from {target.folder}", "").replace(
        " (checkpoint keys not matching the conversion mapping?)", ""
    )
    return said if len(said) <= 300 else f"{said[:300]}..."
