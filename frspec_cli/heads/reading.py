"""What a head's config.json means where its writers disagree, or where a key that one of them writes is another's default.

Tensors decide where they can. What remains in doubt is decided here, once, and said: `notes` collects a sentence for each
doubt, for whoever loads the head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from frspec_cli.errors import FrspecError, option
from frspec_cli.heads.config_schema import MOST_LAYERS

INDICES = "indices into hidden_states"
OUTPUTS = "layers whose outputs are read, one less than in hidden_states"


def default_taps(layers: int) -> tuple[int, int, int]:
    """EAGLE-3's choice, as indices into `hidden_states`: before the layers 2, n // 2 and n - 3 of n."""
    return 2, layers // 2, layers - 3


def is_speculators(raw: dict[str, Any]) -> bool:
    """Whether speculators wrote the config."""
    return "speculators_model_type" in raw or "transformer_layer_config" in raw


def norm_output(
    raw: dict[str, Any], names: Iterable[str], *, override: bool | None, notes: list[str], where: str
) -> bool:
    """Whether the normed output is fed back (EAGLE-3.1), not the output itself.

    `norm_output: true` says so in the configs of speculators, vLLM and SGLang. SpecForge wrote it for a while (May to
    September 2026) into every head, meaning that there is a last norm, and fed back the un-normed output. A norm for each
    tap (`fc_norm`) came with EAGLE-3.1, so beside it the key means what the others mean. False, and no key, are the same.
    """
    if override is not None:
        return override
    if not raw.get("norm_output"):
        return False
    if is_speculators(raw) or raw.get("fc_norm") or any(name.startswith("fc_norm.") for name in names):
        return True
    notes.append(
        f"{where} says norm_output true and has no fc_norm: it is read as SpecForge wrote it (there is a last norm; what is "
        f"fed back is un-normed). If it is an EAGLE-3.1 head, give {option('norm_output')} yes; a replay of ten answers each "
        "way shows which is right."
    )
    return False


def window(raw: dict[str, Any], *, layers: int, notes: list[str], where: str) -> int | None:
    """How many positions a row sees, its own included; None for all.

    As vLLM and speculators do it, `layer_types` decides, and `sliding_window` is the size; without `layer_types` no
    reader of draft heads applies the size. Raises `FrspecError` for layers that differ, or are of an unknown kind.
    """
    kinds, size = raw.get("layer_types"), raw.get("sliding_window")
    if not kinds:
        if size and raw.get("use_sliding_window") is not False:
            notes.append(
                f"{where} says sliding_window {size} without layer_types, which readers of draft heads ignore: its attention "
                "is taken to be full."
            )
        return None
    own = list(kinds)[:layers]
    for kind in own:
        if kind not in ("full_attention", "sliding_attention"):
            raise FrspecError(f"{where} has a layer of the type {kind}; frspec runs full and sliding attention.")
    if len(own) < layers or len(set(own)) > 1:
        raise FrspecError(
            f"{where} has {layers} layers of the types {', '.join(own)}; frspec runs heads whose layers are all alike."
        )
    if own[0] == "full_attention":
        return None
    if not isinstance(size, int) or size < 1:
        raise FrspecError(f"{where} has sliding attention, but its config gives no sliding_window.")
    return size


def taps(raw: dict[str, Any], *, count: int, layers: int | None, where: str) -> tuple[tuple[int, ...], str]:
    """The recorded taps as indices into `hidden_states`, and how the config counts them; (), "" if it records none.

    Two conventions are in use: the number of the layer whose *output* is read (SpecForge, SGLang: 1, n//2-1, n-4), and the
    index into `hidden_states`, one more (speculators, vLLM: 2, n//2, n-3). The default triple shows which one it is.
    An empty list means the default taps.
    count: of the states that `fc.weight` reads.
    layers: the target's number of layers, if it is known.
    """
    nested = raw.get("eagle_config")
    nested = nested if isinstance(nested, dict) else {}
    own = raw.get("eagle_aux_hidden_state_layer_ids")
    recorded = own if own is not None else nested.get("eagle_aux_hidden_state_layer_ids")
    if not recorded:
        return (), ""
    if (
        not isinstance(recorded, list)
        or len(recorded) != count
        or not all(isinstance(index, int) and 0 <= index <= MOST_LAYERS for index in recorded)
    ):
        raise FrspecError(f"{where}: its config taps the layers {recorded}, but fc.weight reads {count} of them.")
    outputs = not is_speculators(raw) and own is None
    if layers is not None and tuple(recorded) == default_taps(layers):
        outputs = False
    elif layers is not None and tuple(index + 1 for index in recorded) == default_taps(layers):
        outputs = True
    return tuple(index + outputs for index in recorded), OUTPUTS if outputs else INDICES


def is_padded(rows: int, vocabulary: int) -> bool:
    """Whether `rows` are those of `vocabulary` tokens and a few more, as engines pad them to a multiple of some power of 2."""
    return rows > vocabulary and rows % 8 == 0 and rows - vocabulary <= max(1024, vocabulary // 100)


def padding(rows: int, vocabulary: int, *, where: str) -> str:
    """The sentence that says which rows of a padded vocabulary are left out."""
    return f"{where} has {rows:,} rows for a vocabulary of {vocabulary:,}: those beyond it are padding and left out."
