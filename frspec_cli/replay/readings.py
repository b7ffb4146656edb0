"""The ways in which a draft head's files can be read wrongly without any shape showing it, each as a head of its own.

A wrong reading costs acceptance and nothing else: the output stays the target's. So the right one is found by replaying the
same answers under each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead

Edit = Callable[[dict[str, torch.Tensor]], None]
"""Changes a head's tensors in place."""

SMALLEST_WINDOW = 4
_ROPE_BASES = (10000.0, 500000.0, 1000000.0)
_NEAREST_OF = 256  # rows that are looked up among the target's


def _as_it_is(tensors: dict[str, torch.Tensor]) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to read a head.

    cause: what is read otherwise than the file says: taps, norm_output, norm_before_residual, tap_norm, window, rope, fc_order,
        input_order, d2t, dtype or embedding_scale.
    what: that in words, such as "norm_output is yes".
    lm_head: the head's rows, all of them.
    """

    cause: str
    what: str
    head: EagleHead
    lm_head: LmHead


def as_filed(head: EagleHead, lm_head: LmHead) -> Reading:
    """The head as its own files say."""
    return Reading("", "as its files say", head, head.own_lm_head or lm_head)


def other_readings(now: Reading, *, target_rope: Mapping[str, Any], layers: int, longest: int) -> Iterator[Reading]:
    """Every reading that differs from `now` in one thing.

    target_rope: the target's own `rope_parameters`; {} if it has none.
    layers: the target's number of layers.
    longest: the number of tokens of the longest text; windows that no text fills change nothing.
    """
    head, config = now.head, now.head.config

    def changed(cause: str, what: str, **fields: Any) -> Reading:
        return Reading(cause, what, _remade(head, **fields), now.lm_head)

    if config.layout == "eagle3":
        for name in ("norm_output", "norm_before_residual"):
            value = not getattr(config, name)
            yield changed(name, f"{name} is {'yes' if value else 'no'}", **{name: value})
        if config.tap_norm != "none":
            yield changed("tap_norm", "the taps are not normed", tap_norm="none")
        swapped = "attention reads the feature before the embedding"
        yield Reading("input_order", swapped, _remade(head, _swap_inputs), now.lm_head)
    for step in (-1, 1):
        taps = tuple(tap + step for tap in config.taps)
        if taps and min(taps) >= 0 and max(taps) < layers:
            yield changed("taps", f"the taps are hidden states {', '.join(map(str, taps))}", taps=taps)
    yield from _fc_orders(now)
    windows = [1 << power for power in range(2, 20) if max(SMALLEST_WINDOW, longest // 16) <= 1 << power < longest]
    for window in dict.fromkeys([None, *windows]):
        if window != config.window:
            what = "attention is full" if window is None else f"attention has a window of {window} positions"
            yield changed("window", what, window=window)
    own = [dict(target_rope)] if "rope_theta" in target_rope else []
    ropes = [*own, *({"rope_theta": base, "rope_type": "default"} for base in _ROPE_BASES)]
    for number, rope in enumerate(ropes):
        if _differs(rope, config.rope) and rope not in ropes[:number]:
            yield changed("rope", f"positions rotate with {_spelled(rope)}", rope=rope)
    scales = {1.0: "unscaled", float(config.hidden_size) ** 0.5: "scaled by the root of the hidden size"}
    for scale, words in scales.items() if config.layout == "eagle2" else ():  # the others norm their embeddings
        if abs(scale - config.embedding_scale) > 1e-3 * scale:
            yield changed("embedding_scale", f"embeddings are {words}", embedding_scale=scale)
    if next(head.parameters()).dtype.itemsize < 4:
        yield _in_float32(now)
    for what, ids in _maps(now.lm_head, config.vocab_size):
        rows = replace(now.lm_head, ids=ids)
        yield Reading("d2t", what, _remade(head, own_lm_head=rows), rows)


def nearest_rows(own: LmHead, target: torch.Tensor, *, seed: int = 0) -> float | None:
    """Of a sample of the head's own rows, the share whose nearest row of the target (by cosine) is their own token's.

    A head's rows begin as the target's in most trainings, so a small share means rows of other tokens, or of another target.
    None if the sizes differ.
    """
    if own.weight.shape[1] != target.shape[1]:
        return None
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(own.size, generator=generator)[:_NEAREST_OF].to(own.weight.device)
    rows = torch.nn.functional.normalize(own.weight[sample].float(), dim=-1)
    best = torch.full((len(sample),), -2.0, device=rows.device)
    found = torch.zeros(len(sample), dtype=torch.int64, device=rows.device)
    for start in range(0, len(target), 8192):
        part = torch.nn.functional.normalize(target[start : start + 8192].float(), dim=-1)
        values, places = (rows @ part.T).max(dim=1)
        found = torch.where(values > best, places + start, found)
        best = torch.maximum(best, values)
    return float((found == own.to_token_ids(sample)).float().mean())


def _remade(
    head: EagleHead,
    edit: Edit = _as_it_is,
    *,
    own_lm_head: LmHead | None = None,
    **fields: Any,
) -> EagleHead:
    """The head with other fields of its config and edited tensors; what it then has no place for is left out."""
    own = own_lm_head or head.own_lm_head
    made = EagleHead(replace(head.config, **fields), embedding_weight=head.embedding_weight, own_lm_head=own)
    tensors = dict(head.state_dict())
    edit(tensors)
    made = made.to(head.embedding_weight.device, next(head.parameters()).dtype)
    made.load_state_dict({name: tensors[name] for name in made.state_dict()})
    return made.requires_grad_(False).eval()


def _in_float32(now: Reading) -> Reading:
    """The same weights, computed with more digits."""
    rows = replace(now.lm_head, weight=now.lm_head.weight.float())
    rows = rows if rows.bias is None else replace(rows, bias=rows.bias.float())
    own = None if now.head.own_lm_head is None else rows
    made = EagleHead(now.head.config, embedding_weight=now.head.embedding_weight.float(), own_lm_head=own)
    made = made.to(now.head.embedding_weight.device)
    made.load_state_dict(now.head.state_dict())
    return Reading("dtype", "it is computed in float32", made.requires_grad_(False).eval(), rows)


def _fc_orders(now: Reading) -> Iterator[Reading]:
    """fc over its parts in the opposite order: embedding and feature, or the taps."""
    config = now.head.config
    parts = len(config.taps) if config.layout == "eagle3" else 2
    what = (
        "fc reads the taps deepest first" if config.layout == "eagle3" else "fc reads the feature before the embedding"
    )

    def turn(tensors: dict[str, torch.Tensor]) -> None:
        tensors["fc.weight"] = torch.cat(tensors["fc.weight"].chunk(parts, dim=1)[::-1], dim=1)

    if parts > 1:
        yield Reading("fc_order", what, _remade(now.head, turn), now.lm_head)


def _swap_inputs(tensors: dict[str, torch.Tensor]) -> None:
    for name in ("q_proj", "k_proj", "v_proj"):
        key = f"layers.0.self_attn.{name}.weight"
        tensors[key] = torch.cat(tensors[key].chunk(2, dim=1)[::-1], dim=1)


def _maps(lm_head: LmHead, vocabulary: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Other meanings of a draft vocabulary's map that give distinct tokens of the vocabulary."""
    if lm_head.ids is None:
        return
    ids = lm_head.ids
    places = torch.arange(len(ids), device=ids.device)
    for what, other in (
        ("d2t holds token ids, not offsets", ids - places),
        ("d2t holds offsets, not token ids", ids + places),
        ("d2t is one too high", (ids - 1) % vocabulary),
        ("d2t is one too low", (ids + 1) % vocabulary),
        ("row i is token i", places),
    ):
        valid = int(other.min()) >= 0 and int(other.max()) < vocabulary and len(other.unique()) == len(other)
        if valid and not torch.equal(other, ids):
            yield what, other


def _differs(rope: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return {**rope, "rope_type": rope.get("rope_type", "default")} != {
        **other,
        "rope_type": other.get("rope_type", "default"),
    }


def _spelled(rope: Mapping[str, Any]) -> str:
    kind = rope.get("rope_type", "default")
    return f"the base {rope.get('rope_theta', 10000.0):,.0f}" + ("" if kind == "default" else f" and {kind} scaling")
