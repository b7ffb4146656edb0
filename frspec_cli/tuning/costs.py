"""What a step costs: a file of milliseconds, interpolated to any tree.

A cycle over a tree of depth D, beam B and N nodes, with a draft LM head of k rows, behind a text of T tokens, costs

    target(N, T) + cycle + head(k, 1) + (D - 1) * (level(B) + head(k, B))

where `cycle` is what each cycle pays once (the draft's block of accepted rows, growing and walking the tree, the host). A
token of plain decoding costs plain(T). Between the points of a file all of these are straight lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from frspec_cli import schema
from frspec_cli.decoding.options import TREE_LIMITS, TreeConfig
from frspec_cli.errors import FrspecError
from frspec_cli.models.shipped import data_folder

SCHEMA = 1
KIND = "costs"

Ms = Annotated[float, Field(ge=0, le=1e7, strict=True)]
"""Milliseconds."""
Time = Annotated[Ms, Field(gt=0)]
"""Milliseconds of what cannot be free."""
Number = Annotated[int, Field(ge=1, le=schema.MOST_ROWS, strict=True)]


class Figure(schema.Schema):
    """A figure, and its 95 % interval if it was measured here."""

    ms: Ms
    low: Ms | None = None
    high: Ms | None = None


class PlainPoint(Figure):
    """A token of plain decoding behind `context` tokens of text."""

    ms: Time
    context: Number


class TargetPoint(Figure):
    """The target over a tree of `rows` nodes, and the walk."""

    ms: Time
    context: Number
    rows: Number


class LevelPoint(Figure):
    """One pass of the draft's layer over `rows` frontier nodes, and the choice of their children; without the LM head."""

    rows: Number


class HeadPoint(Figure):
    """The draft's LM head of `k` rows over `rows` hidden states, softmax included."""

    k: Number
    rows: Number


class StepCosts(schema.Schema):
    """The costs of one model in one dtype.

    k: rows of the full LM head.
    compiled: whether the steps were compiled.
    plain, target, level, head, cycle: see this file's beginning.
    estimated: whether they were worked out from other figures and not measured as they are.
    """

    dtype: Literal["bfloat16", "float16", "float32", "float64"]
    k: Number
    plain: Annotated[list[PlainPoint], Field(min_length=1, max_length=4096)]
    target: Annotated[list[TargetPoint], Field(min_length=1, max_length=4096)]
    level: Annotated[list[LevelPoint], Field(min_length=1, max_length=4096)]
    head: Annotated[list[HeadPoint], Field(min_length=1, max_length=4096)]
    cycle: Figure
    compiled: bool = False
    estimated: bool = False

    def plain_ms(self, context: int) -> float:
        """A token of plain decoding."""
        return line([(point.context, point.ms) for point in self.plain], context)

    def target_ms(self, nodes: int, context: int) -> float:
        """Verifying a tree of `nodes`."""
        return surface([(point.context, point.rows, point.ms) for point in self.target], context, nodes)

    def level_ms(self, rows: int) -> float:
        """A draft level without its LM head."""
        return line([(point.rows, point.ms) for point in self.level], rows)

    def head_ms(self, k: int, rows: int) -> float:
        """The draft's LM head of k rows over `rows` hidden states."""
        return surface([(point.k, point.rows, point.ms) for point in self.head], k, rows)

    def draft_ms(self, tree: TreeConfig, k: int) -> float:
        """Growing a tree, with what a cycle pays once."""
        beam = min(tree.beam, k)
        levels = (tree.depth - 1) * (self.level_ms(beam) + self.head_ms(k, beam))
        return self.cycle.ms + self.head_ms(k, 1) + levels

    def cycle_ms(self, tree: TreeConfig, k: int, context: int) -> float:
        """A whole cycle."""
        return self.target_ms(tree.nodes, context) + self.draft_ms(tree, k)


class AcceptancePoint(schema.Schema):
    """The acceptance length of one tree with a draft LM head of k rows."""

    k: Number
    depth: Annotated[int, Field(ge=TREE_LIMITS["depth"][0], le=TREE_LIMITS["depth"][1], strict=True)]
    beam: Annotated[int, Field(ge=TREE_LIMITS["beam"][0], le=TREE_LIMITS["beam"][1], strict=True)]
    nodes: Annotated[int, Field(ge=TREE_LIMITS["nodes"][0], le=TREE_LIMITS["nodes"][1], strict=True)]
    length: Annotated[float, Field(ge=1, le=65, strict=True)]

    @model_validator(mode="after")
    def _possible(self) -> AcceptancePoint:
        if self.length > self.depth + 1:
            raise ValueError(f"an acceptance length of at most {self.depth + 1}, depth {self.depth} allows no more")
        return self

    @property
    def tree(self) -> TreeConfig:
        """The tree."""
        return TreeConfig(depth=self.depth, beam=self.beam, nodes=self.nodes)


class ReplayedPoint(AcceptancePoint):
    """One that was replayed here. cycles, accepted: of each answer."""

    cycles: list[schema.Count]
    accepted: list[schema.Count]


class CostFile(schema.Schema):
    """Costs of one machine and model.

    machine: as `environment.machine` gives it, or in words.
    source: where the figures are from.
    model: its name; identity: see `models.identity`, None if the figures are another's.
    costs: one entry for each dtype (and compiled or not).
    acceptance: recorded acceptance lengths, if any go with the figures.
    """

    kind: Literal["costs"]
    version: Annotated[int, Field(alias="schema", ge=1, le=SCHEMA, strict=True)]
    machine: dict[str, Any]
    source: str
    model: str
    identity: str | None = None
    torch: str | None = None
    costs: Annotated[list[StepCosts], Field(min_length=1, max_length=64)]
    acceptance: Annotated[list[AcceptancePoint], Field(default_factory=list)]


def find_costs(name: str) -> Path:
    """The file that a user named, or the shipped one of that name. Raises `FrspecError` if there is neither."""
    path = Path(name).expanduser()
    folder = data_folder() / "costs"
    shipped = folder / f"{name}.json"
    if path.is_file():
        return path
    if "/" not in name and shipped.is_file():
        return shipped
    names = sorted(each.stem for each in folder.glob("*.json") if each.stem != "acceptance")
    raise FrspecError(f"there is no cost file {name}.", hint=f"frspec ships {', '.join(names)}.")


def read_costs(path: Path | str) -> CostFile:
    """The costs in a file: a cost file, or a result of `tune` or of `make gpu-day`, which holds one under `costs`.

    Raises `FrspecError` if the file is missing or is none of these.
    """
    value = schema.read_object(path)
    inner = value.get("costs")
    return schema.check(CostFile, inner if isinstance(inner, dict) else value, path)


def line(points: Sequence[tuple[float, float]], x: float) -> float:
    """The piecewise linear curve through (x, y) points; beyond the last it goes on as between the last two, never falling,
    and before the first it is the first's y."""
    points = sorted(points)
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    if x <= xs[-1] or len(xs) == 1:
        return float(np.interp(x, xs, ys))
    slope = max(0.0, (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]))
    return ys[-1] + slope * (x - xs[-1])


def surface(points: Sequence[tuple[float, float, float]], x: float, y: float) -> float:
    """`line` along y for each x that has points, then along x; points are (x, y, z)."""
    by_x: dict[float, list[tuple[float, float]]] = {}
    for at, along, value in points:
        by_x.setdefault(at, []).append((along, value))
    return line([(at, line(curve, y)) for at, curve in by_x.items()], x)
