"""The ways in which a draft head's files can be read wrongly without any shape showing it.

A wrong reading costs acceptance and nothing else: the output stays the target's. So the right one is found by replaying the
same answers under each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from frspec_cli.doctor.rows import rows_by_nearest
from frspec_cli.heads.config import LAYER, HeadConfig, rope_of
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead

SMALLEST_WINDOW = 4
_ROPE_BASES = (10000.0, 500000.0, 1000000.0)
"""The published EAGLE-3 heads', Llama-3's and Qwen's."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One way to read a head.

    cause: what is read otherwise than the files say: taps, norm_output, norm_before_residual, tap_norm, window, rope, fc_order,
        input_order, d2t, dtype or embedding_scale; "" if nothing.
    what: that as a clause, such as "norm_output is yes".
    name: that in a few words, for a table.
    tensors: the head's, with all digits that its files have.
    rows: all rows that it may draft from, likewise.
    own: whether they are the head's own.
    dtype: what it is computed in.
    """

    cause: str
    what: str
    name: str
    config: HeadConfig
    tensors: Mapping[str, torch.Tensor]
    rows: LmHead
    own: bool
    dtype: torch.dtype

    def built(self, embedding: torch.Tensor) -> tuple[EagleHead, LmHead]:
        """The head and its rows, ready to draft, on the device of the embedding [V, H]."""
        device = embedding.device
        bias = None if self.rows.bias is None else self.rows.bias.to(device, self.dtype)
        ids = None if self.rows.ids is None else self.rows.ids.to(device)
        rows = replace(self.rows, weight=self.rows.weight.to(device, self.dtype), bias=bias, ids=ids)
        own = rows if self.own else None
        head = EagleHead(self.config, embedding_weight=embedding.to(self.dtype), own_lm_head=own)
        head = head.to(device, self.dtype)
        head.load_state_dict({name: self.tensors[name] for name in head.state_dict()})
        return head.requires_grad_(False).eval(), rows

    def changed(self, cause: str, what: str, name: str, **fields: Any) -> Reading:
        """The same with other fields of the config."""
        return replace(self, cause=cause, what=what, name=name, config=replace(self.config, **fields))


def as_filed(head: EagleHead, lm_head: LmHead, *, exact: EagleHead | None = None) -> Reading:
    """The head as its own files say.

    lm_head: the target's, for a head without its own.
    exact: the same head with all digits of its files, if it is computed with fewer.
    """
    files = exact or head
    dtype = next(head.parameters()).dtype
    rows = files.own_lm_head or lm_head
    words, own = "as its files say", files.own_lm_head is not None
    return Reading("", words, words, head.config, files.state_dict(), rows, own, dtype)


def other_readings(now: Reading, *, target: Any, rows: LmHead, longest: int) -> Iterator[Reading]:
    """Every reading that differs from `now` in one thing; of one cause, what is most often right comes first.

    target: the target's text config.
    rows: the target's LM head.
    longest: the number of tokens of the longest text; windows that no text fills change nothing.
    """
    config = now.config
    if config.layout == "eagle3":
        for name in ("norm_output", "norm_before_residual"):
            value = not getattr(config, name)
            said = "yes" if value else "no"
            yield now.changed(name, f"{name} is {said}", f"{name} {said}", **{name: value})
        if config.tap_norm != "none":
            yield now.changed("tap_norm", "the taps are not normed", "taps not normed", tap_norm="none")
        what = "attention reads the feature before the embedding"
        yield _turned(now, "input_order", what, "attention: feature first", _INPUTS, 2)
    for step in (-1, 1):
        taps = tuple(tap + step for tap in config.taps)
        if taps and min(taps) >= 0 and max(taps) < target.num_hidden_layers:
            listed = ", ".join(map(str, taps))
            yield now.changed("taps", f"the taps are hidden states {listed}", f"taps {listed}", taps=taps)
    yield from _fc_orders(now)
    windows = [1 << power for power in range(2, 20) if max(SMALLEST_WINDOW, longest // 16) <= 1 << power < longest]
    for window in dict.fromkeys([None, *windows]):
        if window != config.window:
            what = "attention is full" if window is None else f"attention has a window of {window} positions"
            yield now.changed("window", what, "full attention" if window is None else f"window {window}", window=window)
    ropes = _ropes(config.rope, rope_of(target))
    for rope in ropes:
        spelled = _spelled(
            rope, bare=all(each.get("rope_type", "default") == "default" for each in (config.rope, *ropes))
        )
        yield now.changed("rope", f"RoPE has the {spelled}", f"RoPE {spelled}", rope=rope)
    scales = {1.0: "unscaled", float(config.hidden_size) ** 0.5: "scaled by the root of the hidden size"}
    for scale, words in scales.items() if config.layout == "eagle2" else ():  # the others norm their embeddings
        if abs(scale - config.embedding_scale) > 1e-3 * scale:
            yield now.changed(
                "embedding_scale", f"embeddings are {words}", f"embeddings {words[:8]}", embedding_scale=scale
            )
    if now.dtype.itemsize < 4:
        yield replace(now, cause="dtype", what="it is computed in float32", name="float32", dtype=torch.float32)
    if now.own:
        for what, name, named in _maps(now.rows, config.vocab_size, rows):
            yield replace(now.changed("d2t", what, name, draft_vocab_size=named.size), rows=named)


_INPUTS = tuple(f"{LAYER}self_attn.{name}_proj.weight" for name in "qkv")


def _turned(now: Reading, cause: str, what: str, name: str, tensors: tuple[str, ...], parts: int) -> Reading:
    """The same with the inputs of some projections, `parts` equal ones, in the opposite order."""
    turned = {each: torch.cat(now.tensors[each].chunk(parts, dim=1)[::-1], dim=1) for each in tensors}
    return replace(now, cause=cause, what=what, name=name, tensors={**now.tensors, **turned})


def _fc_orders(now: Reading) -> Iterator[Reading]:
    """fc over its parts in the opposite order: embedding and feature, or the taps."""
    wide = now.config.layout == "eagle3"
    parts = len(now.config.taps) if wide else 2
    what = "fc reads the taps deepest first" if wide else "fc reads the feature before the embedding"
    if parts > 1:
        yield _turned(now, "fc_order", what, f"fc: {'deepest tap' if wide else 'feature'} first", ("fc.weight",), parts)


def _maps(own: LmHead, vocabulary: int, target: LmHead) -> Iterator[tuple[str, str, LmHead]]:
    """The head's rows under other tokens: other meanings of its map that give distinct tokens of the vocabulary.

    Yields (what, name, rows).
    """
    if own.ids is not None:
        places = torch.arange(len(own.ids), device=own.ids.device)
        for what, name, other in (
            ("d2t holds token ids, not offsets", "d2t as token ids", own.ids - places),
            ("d2t holds offsets, not token ids", "d2t as offsets", own.ids + places),
            ("d2t is one too high", "d2t less one", (own.ids - 1) % vocabulary),
            ("d2t is one too low", "d2t plus one", (own.ids + 1) % vocabulary),
            ("row i is token i", "without d2t", places),
        ):
            valid = int(other.min()) >= 0 and int(other.max()) < vocabulary and len(other.unique()) == len(other)
            if valid and not torch.equal(other, own.ids):
                yield what, name, replace(own, ids=other)
    if (nearest := rows_by_nearest(own, target.weight)) is not None:
        what = "its rows belong to the tokens whose rows of the target they are nearest to"
        yield what, "rows by nearest token", nearest


def _ropes(own: Mapping[str, Any], target: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Other rotary parameters that a head may have been trained with: the target's, its base alone, usual bases."""
    base, theirs = float(own.get("rope_theta", 10000.0)), float(target.get("rope_theta", 10000.0))
    found = [dict(target), {**target, "rope_theta": base}, {**own, "rope_theta": theirs}]
    found += [{"rope_theta": each, "rope_type": "default"} for each in (base, theirs, *_ROPE_BASES)]
    seen, ropes = [_plain(own)], []
    for rope in found:
        if _plain(rope) not in seen:
            seen.append(_plain(rope))
            ropes.append(rope)
    return ropes


def _plain(rope: Mapping[str, Any]) -> dict[str, Any]:
    return {**rope, "rope_theta": float(rope.get("rope_theta", 10000.0)), "rope_type": rope.get("rope_type", "default")}


def _spelled(rope: Mapping[str, Any], *, bare: bool) -> str:
    """bare: whether scaling is not to be mentioned, for there is none anywhere."""
    kind, base = rope.get("rope_type", "default"), f"base {float(rope.get('rope_theta', 10000.0)):,.0f}"
    if kind == "default":
        return base if bare else f"{base}, unscaled"
    return f"{base} and {kind} scaling" + (f" by {rope['factor']:g}" if "factor" in rope else "")
