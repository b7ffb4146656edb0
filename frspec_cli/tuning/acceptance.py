"""Acceptance lengths of trees that were not replayed, from those that were.

A head is mostly known by one figure: the acceptance length at one tree. What other trees accept is then worked out from the
shape of a head whose trees were all replayed (the one that frspec ships for SmolLM2-135M). For each tree of that shape let
p be the chance of each level that gives its length, 1 + p + p^2 + .. + p^depth; a better or worse head scales the p of all
trees alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from frspec_cli import schema
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.models.shipped import data_folder
from frspec_cli.tuning.costs import AcceptancePoint

Lengths = Mapping[TreeConfig, float]
"""Acceptance lengths by tree, of one size of the draft's LM head."""

SHAPE = "acceptance.json"
"""The file of the shape, in the folder of the shipped costs."""


class ShapeFile(schema.Schema):
    """Replayed acceptance lengths of one head. source: how they were made."""

    kind: Literal["acceptance"]
    source: str
    acceptance: Annotated[list[AcceptancePoint], Field(min_length=1, max_length=1 << 16)]


@cache
def shape() -> dict[TreeConfig, float]:
    """The shipped shape: acceptance lengths by tree."""
    path = data_folder() / "costs" / SHAPE
    points = schema.check(ShapeFile, schema.read_object(path), path).acceptance
    return {point.tree: point.length for point in points}


def lengths_at(points: Sequence[AcceptancePoint], k: int) -> dict[TreeConfig, float]:
    """The lengths of every recorded tree with a draft LM head of k rows: between two recorded sizes a straight line, outside
    them the nearest."""
    by_tree: dict[TreeConfig, list[tuple[int, float]]] = {}
    for point in points:
        by_tree.setdefault(point.tree, []).append((point.k, point.length))
    lengths = {}
    for tree, sizes in by_tree.items():
        recorded = np.asarray(sorted(sizes), dtype=np.float64)
        lengths[tree] = float(np.interp(k, recorded[:, 0], recorded[:, 1]))
    return lengths


def scaled(shape: Lengths, tree: TreeConfig, length: float) -> dict[TreeConfig, float]:
    """The lengths of every tree of a shape for a head that is known to accept `length` at `tree`.

    If the shape lacks that tree, its nearest one stands for it: of those no deeper, the one of most nodes.
    """
    known = shape.get(tree)
    if known is None:
        below = [each for each in shape if each.depth <= tree.depth and each.nodes <= tree.nodes] or list(shape)
        known = shape[max(below, key=lambda each: (each.depth, each.nodes, each.beam))]
    ratio = level_chance(length, tree.depth) / level_chance(known, tree.depth)
    return {
        each: length_of(min(1.0, level_chance(value, each.depth) * ratio), each.depth) for each, value in shape.items()
    }


def around(points: Sequence[AcceptancePoint]) -> list[AcceptancePoint]:
    """The points, and for each size of the draft's LM head the trees of the shape that are no larger than its largest
    recorded one, worked out from that. Chains alone (an MTP module's) stay as they are: the shape has none."""
    if all(point.beam == 1 for point in points):
        return list(points)
    found: list[AcceptancePoint] = []
    for k in sorted({point.k for point in points}):
        own = {point.tree: point.length for point in points if point.k == k}
        largest = max(own, key=lambda tree: (tree.nodes, tree.depth))
        others = scaled(shape(), largest, own[largest])
        smaller = {t: v for t, v in others.items() if t.nodes <= largest.nodes and t.depth <= largest.depth}
        found += schema.check_type(list[AcceptancePoint], as_points(smaller | own, k), "the acceptance")
    return found


def level_chance(length: float, depth: int) -> float:
    """The p in 0..1 for which 1 + p + .. + p^depth is `length`, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if length_of(middle, depth) < length else (low, middle)
    return (low + high) / 2


def length_of(chance: float, depth: int) -> float:
    """1 + p + p^2 + .. + p^depth."""
    return sum(chance**level for level in range(depth + 1))


def as_points(lengths: Lengths, k: int) -> list[dict[str, Any]]:
    """The records of a file's `acceptance`."""
    return [
        {"k": k, "depth": tree.depth, "beam": tree.beam, "nodes": tree.nodes, "length": round(length, 4)}
        for tree, length in lengths.items()
    ]


def recorded_length(head: Path) -> float | None:
    """The acceptance length that `train-draft` wrote into a head's config.json, at `TreeConfig()`; None if there is none."""
    path = head / "config.json"
    if not path.is_file():
        return None
    return schema.check(_HeadConfig, schema.read_object(path), path).acceptance_length


class _HeadConfig(schema.Schema):
    acceptance_length: Annotated[float, Field(ge=1, le=65)] | None = None
