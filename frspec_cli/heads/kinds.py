"""Drafters of other kinds, by the tensors and config keys that only they have, so that a refusal can name what it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from frspec_cli.errors import FrspecError, option
from frspec_cli.heads.config import own_layout

RUNS = "frspec runs EAGLE-1, 2, 3 and 3.1"

_MTP = "a multi-token-prediction (MTP) module"

_BY_NAME = (
    ("peagle", "a P-EAGLE head"),
    ("paralleleagle", "a P-EAGLE head"),
    ("dspark", "a DSpark head"),
    ("dflash2", "a DFlash-2 head"),
    ("dflash", "a DFlash head"),
    ("domino", "a Domino head"),
    ("xpress", "an XPress head"),
    ("medusa", "a Medusa head"),
    ("hydra", "a Hydra head"),
    ("mlpspeculator", "an MLP speculator"),
    ("gemma4assistant", "a Gemma-4 assistant"),
    ("nextn", _MTP),
    ("mtp", _MTP),
)
"""What a config calls itself (architectures, model_type, speculators_model_type), in lower case, letters and digits only."""

_BY_TENSOR = (
    ("mask_hidden", "a P-EAGLE head"),
    ("markov_w1", "a DFlash-2 or DSpark head"),
    ("markov_w2", "a DFlash-2 or DSpark head"),
    ("predecessor_codebook", "a DFlash-2 head"),
    ("refiner_head.", "an XPress head"),
    ("medusa_head.", "a Medusa head"),
    ("hydra_head.", "a Hydra head"),
    ("masked_embedding.", "a Gemma-4 assistant"),
    ("eh_proj.", _MTP),
    ("nextn.", _MTP),
    ("mtp.", _MTP),
    ("mtp_layers.", _MTP),
)
"""Parts of tensor names; the first that occurs decides."""

_BY_LAYER = (
    ("kv_a_proj_with_mqa", "an EAGLE head with latent attention (MLA)"),
    ("kv_b_proj", "an EAGLE head with latent attention (MLA)"),
    ("mlp.experts.", "an EAGLE head with a mixture of experts"),
)
"""The same, in a head that has EAGLE's fc.weight: whole models have such layers too."""

_BY_KEY = (
    ("ptd_token_id", "a P-EAGLE head"),
    ("dflash_config", "a DFlash head"),
    ("markov_rank", "a DFlash-2 or DSpark head"),
    ("medusa_num_heads", "a Medusa head"),
    ("hydra_num_heads", "a Hydra head"),
    ("num_centroids", "a Gemma-4 assistant"),
    ("centroid_intermediate_top_k", "a Gemma-4 assistant"),
)
"""Keys of config.json that must hold something."""


def other_kind(raw: dict[str, Any], names: Iterable[str]) -> str | None:
    """What a drafter is that frspec does not run, such as "a Medusa head"; None if nothing says that it is another kind.

    raw: its config.json.
    names: its tensors'.
    """
    if own_layout(raw) is not None:
        return None
    architectures = raw.get("architectures")
    own_names = [raw.get("model_type"), raw.get("speculators_model_type")]
    own_names += architectures if isinstance(architectures, list) else [architectures]
    spelled = ["".join(filter(str.isalnum, str(name).lower())) for name in own_names if name]
    for part, kind in _BY_NAME:
        if any(part in name for name in spelled):
            return kind
    tensors = [f".{name}" for name in names]
    eagle = any(name.endswith(".fc.weight") for name in tensors)
    for part, kind in _BY_TENSOR + (_BY_LAYER if eagle else ()):
        if any(f".{part}" in name for name in tensors):
            return kind
    if any(name.split(".")[1].isdigit() for name in tensors):
        return "a Medusa head"  # its first published files are a bare list of heads: 0.0.linear.weight
    if eagle and not {".hidden_norm.weight", ".model.hidden_norm.weight"}.isdisjoint(tensors):
        return "a DFlash head"  # it norms what fc gives, outside its layers; EAGLE-3 norms inside the first
    return next((kind for key, kind in _BY_KEY if raw.get(key)), None)


def refuse_other_kind(raw: dict[str, Any], names: Iterable[str], *, where: str) -> None:
    """Raises `FrspecError` that names the kind if config.json (`raw`) or tensors (`names`) are another drafter's."""
    other = other_kind(raw, names)
    if other is not None:
        own = f"An MTP module drafts for the target whose checkpoint holds it: {option('draft')} mtp."
        raise FrspecError(f"{where}: this is {other}; {RUNS}.", hint=own if other == _MTP else "")
