"""Draft heads of all sources under one set of names: EAGLE-1/2 and EAGLE-3 as EAGLE, FR-Spec, SpecForge, SGLang, vLLM and
speculators write them, and the two layouts that only frspec runs.

Tensors are trusted over config.json: sizes, biases and norms are what the tensors have; the config gives what no tensor
shows (heads, RoPE, epsilon, taps). A name that no layout has is an error later, when the tensors are loaded into the head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from frspec_cli.errors import ArtifactError, FrspecError, UsageError, option
from frspec_cli.heads import reading
from frspec_cli.heads.config import (
    LAYER,
    OWN_ARCHITECTURES,
    HeadConfig,
    Layout,
    detect_layout,
    own_config,
    tensor_name,
)
from frspec_cli.heads.config_schema import ForeignConfig, Rope
from frspec_cli.heads.kinds import RUNS, refuse_other_kind
from frspec_cli.heads.mtp_names import module_tensors
from frspec_cli.heads.reading import default_taps, is_padded
from frspec_cli.schema import check
from frspec_cli.subsets.formats.d2t import target_ids

Tensors = dict[str, torch.Tensor]
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_ATTENTION = LAYER + "self_attn."


@dataclass(frozen=True, eq=False)
class ParsedHead:
    """A checkpoint's contents, by `EagleHead`'s names.

    config: with the taps that its config.json records; `taps` is () if it records none.
    tensors: of `EagleHead`.
    embedding: [V, H], the head's own; None if it uses the target's.
    lm_head: [D, H], the head's own; None if it uses the target's.
    ids: int64 [D], the target's token of each row of `lm_head`; None if row i is token i.
    counting: how its config.json counts taps; "" if it records none.
    notes: what its config.json leaves in doubt, and how that was read.
    """

    config: HeadConfig
    tensors: Tensors
    embedding: torch.Tensor | None = None
    lm_head: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    counting: str = ""
    notes: tuple[str, ...] = ()

    def with_taps_of(self, layers: int) -> HeadConfig:
        """The config for a target with this many layers: EAGLE-3's default taps (2, n // 2, n - 3) if none were recorded."""
        if self.config.layout != "eagle3" or self.config.taps:
            return self.config
        return replace(self.config, taps=default_taps(layers))

    def without_padding(self, vocabulary: int) -> ParsedHead:
        """The head for a target of `vocabulary` tokens: without the rows that it has beyond them, if they are padding."""
        if not is_padded(self.config.vocab_size, vocabulary):
            return self
        lm_head, ids = self.lm_head, self.ids
        if lm_head is not None and ids is not None:
            lm_head, ids = lm_head[ids < vocabulary], ids[ids < vocabulary]
        elif lm_head is not None:
            lm_head = lm_head[:vocabulary]
        rows = None if self.config.draft_vocab_size is None or lm_head is None else len(lm_head)
        return replace(
            self,
            config=replace(self.config, vocab_size=vocabulary, draft_vocab_size=rows),
            embedding=None if self.embedding is None else self.embedding[:vocabulary],
            lm_head=lm_head,
            ids=ids,
        )

    def reading(self) -> dict[str, Any]:
        """How the head is read, for people: what its tensors and its config.json were taken to mean."""
        config = self.config
        if config.taps:
            counted = f" (its config counts {self.counting})" if self.counting else ""
            taps = f"hidden_states {', '.join(map(str, config.taps))}{counted}"
        else:
            taps = "hidden_states 2, n // 2, n - 3 (none recorded)" if config.layout == "eagle3" else "none"
        return {
            "layers": config.layers,
            "taps": taps,
            "fc_norm": config.tap_norm == "each",
            "norm_output": config.norm_output,
            "norm_before_residual": config.norm_before_residual,
            "window": config.window,
            "embedding": "the target's" if self.embedding is None else "in the file",
            "lm_head": "the target's" if self.lm_head is None else f"own, {len(self.lm_head):,} rows",
            "d2t": None if self.ids is None else "offsets (row + d2t[row] is the token)",
            "target_hidden_size": config.feature_size,
            "notes": list(self.notes),
        }


def parse_head(
    raw: dict[str, Any], tensors: Tensors, *, layers: int | None, where: str, norm_output: bool | None = None
) -> ParsedHead:
    """Combines a head's config.json (`raw`) and its tensors.

    layers: the target's number of layers, if it is known, to tell the two conventions of counting taps apart.
    where: the head, for messages.
    norm_output: what the key is taken to be, whatever the config says; None to read it (see `reading.norm_output`).
    Raises `FrspecError` naming the tensor and what was expected, or the kind of a drafter that frspec does not run.
    """
    kind = detect_layout(raw, tensors)
    refuse_other_kind(raw, tensors, where=where)
    if kind is None:
        raise FrspecError(
            f"{where} is not a draft head of a layout that frspec knows: it lacks the tensor fc.weight.",
            hint=f"{RUNS}.",
        )
    if norm_output is not None and kind != "eagle3":
        raise UsageError(f"{option('norm_output')} is for EAGLE-3 heads; {where} is of the layout {kind}.")
    if kind in OWN_ARCHITECTURES.values():
        own = own_config(raw, where=where)
        if kind == "mtp":
            tensors = module_tensors(tensors, where=where)
        _check_own_sizes(own, tensors, where)
        _check_functions(own, where)
        return ParsedHead(own, tensors)
    nested = raw.get("transformer_layer_config")
    flat = {**nested, **raw} if isinstance(nested, dict) else raw
    check(ForeignConfig, flat, f"{where}/config.json")
    renamed = {tensor_name(name): tensor for name, tensor in tensors.items()}
    for name, expected in (
        ("embed_tokens.weight", ["rows", "size"]),
        ("lm_head.weight", ["rows", "size"]),
        ("t2d", ["rows"]),
    ):
        if name in renamed and renamed[name].ndim != len(expected):
            raise _wrong_shape(name, renamed[name], expected, where)
    frequencies = renamed.pop(_ATTENTION + "rotary_emb.inv_freq", None)
    notes: list[str] = []
    config, counting = _config(kind, flat, renamed, layers, norm_output, notes, where)
    _check_functions(config, where)
    if frequencies is not None:
        _check_frequencies(config, frequencies, where=where)
    embedding, lm_head = renamed.pop("embed_tokens.weight", None), renamed.pop("lm_head.weight", None)
    d2t, t2d = renamed.pop("d2t", None), renamed.pop("t2d", None)
    ids = None
    if lm_head is None and kind == "eagle3":
        _check_targets_lm_head(config, flat, d2t, where)
    if lm_head is not None:
        if lm_head.shape[1:] != (config.hidden_size,):
            raise _wrong_shape("lm_head.weight", lm_head, ["rows", config.hidden_size], where)
        if d2t is None and is_padded(len(lm_head), config.vocab_size):
            notes.append(reading.padding(len(lm_head), config.vocab_size, where=where))
            lm_head = lm_head[: config.vocab_size]
            config = replace(config, draft_vocab_size=None if kind == "eagle2" else len(lm_head))
        if kind == "eagle2" and len(lm_head) != config.vocab_size:
            raise _wrong_shape("lm_head.weight", lm_head, [config.vocab_size, config.hidden_size], where)
        if kind == "eagle3":
            ids = draft_ids(d2t, t2d, rows=len(lm_head), vocab_size=config.vocab_size, where=where)
    return ParsedHead(config, renamed, embedding, lm_head, ids, counting, tuple(notes))


def _check_targets_lm_head(config: HeadConfig, raw: dict[str, Any], d2t: torch.Tensor | None, where: str) -> None:
    """Raises `FrspecError` unless the target's LM head can serve an EAGLE-3 head that has none."""
    whole = raw.get("draft_vocab_size") in (None, config.vocab_size)
    mapped = d2t is not None and (len(d2t) != config.vocab_size or bool(d2t.any()))
    if mapped or not whole or config.feature_size != config.hidden_size:
        raise FrspecError(
            f"{where} lacks the tensor lm_head.weight: only a head of the target's own hidden size, over its whole "
            "vocabulary, can use the target's LM head."
        )


def draft_ids(
    d2t: torch.Tensor | None, t2d: torch.Tensor | None, *, rows: int, vocab_size: int, where: str
) -> torch.Tensor | None:
    """int64 [D]: the target's token of each draft row, `row + d2t[row]`; None if row i is token i.

    d2t: [D] offsets.
    t2d: bool [V], which must mark exactly those tokens.
    Raises `FrspecError` if they do not fit each other.
    """
    if d2t is None:
        if rows != vocab_size:
            raise FrspecError(
                f"{where} lacks the tensor d2t of shape [{rows}]: its LM head has {rows} rows, the vocabulary {vocab_size}."
            )
        return None
    if tuple(d2t.shape) != (rows,):
        raise _wrong_shape("d2t", d2t, [rows], where)
    for name, tensor, kinds in (("d2t", d2t, _WHOLE), ("t2d", t2d, (*_WHOLE, torch.bool))):
        if tensor is not None and tensor.dtype not in kinds:
            kind = str(tensor.dtype).removeprefix("torch.")
            expected = "whole numbers" if name == "d2t" else "true or false"
            raise ArtifactError(where, f"the tensor {name}", expected, found=f"of the dtype {kind}")
    mask = None if t2d is None else t2d.bool().numpy()
    offsets = d2t.to(torch.int64)
    ids = torch.from_numpy(target_ids(offsets.numpy(), mask, name=where, rows=vocab_size))
    return None if rows == vocab_size and not offsets.any() else ids


def _check_own_sizes(config: HeadConfig, tensors: Tensors, where: str) -> None:
    """Raises `FrspecError` unless the sizes of our layouts' config are the tensors', before a head of that size is made."""
    heads, keys, size = config.num_attention_heads, config.num_key_value_heads, config.hidden_size
    expected = {
        _ATTENTION + "q_proj.weight": (heads * config.head_dim, size),
        _ATTENTION + "k_proj.weight": (keys * config.head_dim, size),
        LAYER + "mlp.gate_proj.weight": (config.intermediate_size, size),
        "fc.weight": (size, 2 * size),
    }
    if config.layout == "fused":
        expected["fuse_proj.weight"] = (size, (1 + len(config.taps)) * size)
    for name, shape in expected.items():
        if name not in tensors:
            raise FrspecError(f"{where} lacks the tensor {name} of shape {list(shape)}.")
        if tuple(tensors[name].shape) != shape:
            raise _wrong_shape(name, tensors[name], list(shape), where)


def _check_functions(config: HeadConfig, where: str) -> None:
    """Raises `ArtifactError` if transformers knows no such activation, or if RoPE's parameters give no frequencies."""
    from transformers.activations import ACT2FN

    from frspec_cli.heads.layer import inverse_frequencies

    file = f"{where}/config.json"
    if config.hidden_act not in ACT2FN:
        raise ArtifactError(file, "hidden_act", "an activation of transformers", found=repr(config.hidden_act))
    try:
        frequencies, scaling = inverse_frequencies(config)
        fits = (
            frequencies.shape == (config.head_dim // 2,) and bool(frequencies.isfinite().all()) and scaling < math.inf
        )
        reason = "frequencies that are infinite or of another number"
    except Exception as error:  # transformers' functions raise whatever their arithmetic does
        fits, reason = False, f"{type(error).__name__}: {error}".splitlines()[0]
    if not fits:
        found = f"{config.rope.get('rope_type')!r} with other parameters ({reason})"
        raise ArtifactError(file, "its RoPE", "a type and parameters that transformers knows", found=found)


def _config(
    kind: Layout,
    raw: dict[str, Any],
    tensors: Tensors,
    target_layers: int | None,
    norm_output: bool | None,
    notes: list[str],
    where: str,
) -> tuple[HeadConfig, str]:
    """The `HeadConfig` (sizes from tensors, the rest from config.json), and how the config counts taps."""
    hidden = _shape(tensors, "fc.weight", where)[0]
    wide = kind == "eagle3"
    features = int(raw.get("target_hidden_size") or hidden) if wide else hidden
    taps, counting = _fc_taps(kind, raw, tensors, features, layers=target_layers, where=where)
    layers = _layers(tensors)
    config = HeadConfig(
        layout=kind,
        hidden_size=hidden,
        intermediate_size=_shape(tensors, LAYER + "mlp.gate_proj.weight", where)[0],
        **_attention_sizes(raw, tensors, where),
        vocab_size=_vocab_size(raw, tensors, where),
        draft_vocab_size=len(tensors["lm_head.weight"]) if wide and "lm_head.weight" in tensors else None,
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope=_rope(raw, where=where),
        max_position_embeddings=int(raw.get("max_position_embeddings", 2048)),
        hidden_act=str(raw.get("hidden_act", "silu")),
        fc_bias="fc.bias" in tensors,
        qkv_bias=_ATTENTION + "q_proj.bias" in tensors,
        o_bias=_ATTENTION + "o_proj.bias" in tensors,
        qk_norm=_ATTENTION + "q_norm.weight" in tensors,
        norm_before_residual=wide and bool(raw.get("norm_before_residual")),
        norm_output=wide and reading.norm_output(raw, tensors, override=norm_output, notes=notes, where=where),
        tap_norm="joint" if "input_norm.weight" in tensors else "each" if "fc_norm.0.weight" in tensors else "none",
        taps=taps,
        layers=layers,
        window=reading.window(raw, layers=layers, notes=notes, where=where),
        target_hidden_size=None if features == hidden else features,
    )
    return config, counting


def _layers(tensors: Tensors) -> int:
    """The number of layers, by their query projections."""
    count = 1
    while f"layers.{count}.self_attn.q_proj.weight" in tensors:
        count += 1
    return count


def _shape(tensors: Tensors, name: str, where: str) -> tuple[int, int]:
    if name not in tensors:
        raise FrspecError(f"{where} lacks the tensor {name}.")
    if tensors[name].ndim != 2:
        raise _wrong_shape(name, tensors[name], ["two dimensions"], where)
    return tensors[name].shape[0], tensors[name].shape[1]


def _attention_sizes(raw: dict[str, Any], tensors: Tensors, where: str) -> dict[str, int]:
    """Heads from config.json (no tensor shows them), key heads and their size from the projections."""
    queries, keys = (_shape(tensors, f"{_ATTENTION}{name}_proj.weight", where)[0] for name in "qk")
    heads = _required(raw, "num_attention_heads", where)
    head_dim = int(raw.get("head_dim") or queries // heads or 1)
    if not keys or queries != heads * head_dim or keys % head_dim:
        raise FrspecError(
            f"{where}: q_proj has {queries} rows and k_proj {keys}, expected {heads} heads of {head_dim} and a whole number "
            "of key heads."
        )
    return {"num_attention_heads": heads, "num_key_value_heads": keys // head_dim, "head_dim": head_dim}


def _fc_taps(
    kind: Layout, raw: dict[str, Any], tensors: Tensors, features: int, *, layers: int | None, where: str
) -> tuple[tuple[int, ...], str]:
    """The recorded taps and how they are counted; () for EAGLE-1/2 or if none are recorded.

    features: the size of the target's states. The input size of `fc.weight` must fit.
    """
    hidden, read = _shape(tensors, "fc.weight", where)
    if not hidden:
        raise _wrong_shape("fc.weight", tensors["fc.weight"], ["above 0", "above 0"], where)
    taps: tuple[int, ...] = ()
    counting = ""
    if kind == "eagle3":
        taps, counting = reading.taps(raw, count=read // features, layers=layers, where=where)
    count = 2 if kind == "eagle2" else len(taps) or 3  # the default taps are three
    if read != count * features:
        raise _wrong_shape("fc.weight", tensors["fc.weight"], [hidden, count * features], where)
    return taps, counting


def _vocab_size(raw: dict[str, Any], tensors: Tensors, where: str) -> int:
    for name in ("embed_tokens.weight", "t2d"):
        if name in tensors:
            return len(tensors[name])
    return _required(raw, "vocab_size", where)


def _required(raw: dict[str, Any], key: str, where: str) -> int:
    if not isinstance(raw.get(key), int) or raw[key] < 1:
        raise FrspecError(f"{where}: its config.json has no positive number {key}.")
    return raw[key]


def _rope(raw: dict[str, Any], *, where: str) -> dict[str, Any]:
    """transformers' `rope_parameters`. Without rope_theta the base is 10,000, as in the published EAGLE-3 heads."""
    scaling = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    theta = scaling.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0
    check(Rope, {"rope_theta": theta, "rope_type": kind}, f"{where}/config.json")
    return {"rope_theta": float(theta), "rope_type": kind, **scaling}


def _check_frequencies(config: HeadConfig, frequencies: torch.Tensor, *, where: str) -> None:
    """Checks RoPE's frequencies, which old checkpoints store too, against those that the config gives."""
    from frspec_cli.heads.layer import inverse_frequencies

    ours, _ = inverse_frequencies(config)
    if frequencies.shape != ours.shape or not torch.allclose(frequencies.float(), ours, rtol=1e-2, atol=1e-6):
        raise FrspecError(
            f"{where}: tensor rotary_emb.inv_freq does not hold the frequencies of its config's RoPE "
            f"(rope_theta {config.rope['rope_theta']:g}, {config.rope['rope_type']})."
        )


def _wrong_shape(name: str, tensor: torch.Tensor, expected: list[Any], where: str) -> FrspecError:
    shape = ", ".join(map(str, expected))
    return FrspecError(f"{where}: tensor {name} has shape {list(tensor.shape)}, expected [{shape}].")
