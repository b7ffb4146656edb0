"""Results that other commands wrote, told apart by what they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from frspec_cli import schema
from frspec_cli.errors import FrspecError
from frspec_cli.report.contradictions import contradictions
from frspec_cli.tuning.tune_file import TuneFile

Kind = Literal["bench", "replay", "profile", "coverage", "tune"]


class _Interval(schema.Schema):
    value: float
    low: float
    high: float


class _BenchArm(schema.Schema):
    k: int | None
    tokens_per_second: float
    decode_tokens_per_second: float
    acceptance_length: float
    speedup: _Interval | None
    decode_speedup: _Interval | None = None
    over_eagle: _Interval | None = None
    identical: dict[str, Any] | None
    seconds: dict[str, float]


class _Text(schema.Schema):
    category: str
    method: str
    token_ids: list[int]
    cycles: schema.Count
    accepted: list[schema.Count]
    seconds: dict[str, float]


class _Bench(schema.Schema):
    environment: dict[str, Any]
    options: dict[str, Any]
    prompts: list[_Text]
    summary: dict[str, _BenchArm]


class _Depth(schema.Schema):
    depth: int
    cycles: schema.Count
    share: float
    conditional: float | None


class _Group(schema.Schema):
    answers: int
    cycles: schema.Count
    interval: _Interval | None
    kept: _Interval | None = None


class _ReplayArm(schema.Schema):
    method: str
    k: int
    context_slots: schema.Count = 0
    draft: str | None
    vocab: str | None
    cycles: schema.Count
    interval: _Interval | None
    kept: _Interval | None
    depths: list[_Depth]
    misses: dict[str, schema.Count]
    categories: dict[str, _Group]
    languages: dict[str, _Group]
    positions: dict[str, _Group]


class _ReplayedText(schema.Schema):
    method: str
    accepted: list[schema.Count]


class _Replay(schema.Schema):
    environment: dict[str, Any]
    options: dict[str, Any]
    answers: dict[str, Any]
    prompts: list[_ReplayedText]
    summary: dict[str, _ReplayArm]


class _ProfileArm(schema.Schema):
    k: int | None
    acceptance_length: float
    cycle_ms: _Interval
    draft_ms: _Interval
    parts_ms: dict[str, _Interval]
    shares: dict[str, float]


class _ProfileFigures(schema.Schema):
    methods: dict[str, _ProfileArm]
    ratios: dict[str, dict[str, _Interval]]


class _Profile(schema.Schema):
    environment: dict[str, Any]
    options: dict[str, Any]
    profile: _ProfileFigures


class _CoverageRow(schema.Schema):
    subset: str
    on: str
    k: int
    source: str
    script: str
    tokens: schema.Count
    coverage: float
    low: float
    high: float


class _Coverage(schema.Schema):
    rows: list[_CoverageRow]


_SCHEMAS: dict[Kind, type[schema.Schema]] = {
    "bench": _Bench,
    "replay": _Replay,
    "profile": _Profile,
    "coverage": _Coverage,
    "tune": TuneFile,
}


@dataclass(frozen=True)
class Result:
    """One result: its file's name without the suffix, what command made it, and the JSON object."""

    name: str
    kind: Kind
    record: Mapping[str, Any]

    @property
    def arms(self) -> dict[str, Any]:
        """The figures of each arm by its name; the first of several sizes is not named a second time."""
        summary = self.record["profile"]["methods"] if self.kind == "profile" else self.record["summary"]
        several = any(name.startswith("frspec@") for name in summary)
        return {name: each for name, each in summary.items() if not (several and name == "frspec")}


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The results in their order; equal names are told apart by a number.

    Raises `FrspecError` for a file that holds none, or that contradicts itself, and `ArtifactError` for a damaged one or one
    of an older version.
    """
    names = _distinct([path.stem for path in paths])
    return [_read(path, name) for path, name in zip(paths, names, strict=True)]


def of_kind(results: Sequence[Result], kind: Kind) -> Iterator[Result]:
    """The results of one kind."""
    return (result for result in results if result.kind == kind)


def _read(path: Path, name: str) -> Result:
    record = schema.read_object(path)
    kind = _kind(record)
    if kind is None:
        raise FrspecError(
            f"{path} is not a result that a report shows.",
            hint="Give the JSON of frspec bench, replay, profile or tune, or what frspec coverage --json printed.",
        )
    schema.check(_SCHEMAS[kind], record, path, hint="If an older version wrote it, run that command again.")
    if (contradiction := next(contradictions(kind, record), None)) is not None:
        raise FrspecError(
            f"{path} contradicts itself: {contradiction}.", hint="Show what the command wrote, or run it again."
        )
    return Result(name, kind, record)


def _kind(record: Mapping[str, Any]) -> Kind | None:
    if record.get("kind") in ("replay", "tune"):
        return "replay" if record["kind"] == "replay" else "tune"
    if "profile" in record:
        return "profile"
    if {"summary", "prompts"} <= record.keys():
        return "bench"
    return "coverage" if isinstance(record.get("rows"), list) else None


def _distinct(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    numbers: dict[str, int] = {}
    distinct = []
    for name in names:
        numbers[name] = numbers.get(name, 0) + 1
        distinct.append(f"{name} ({numbers[name]})" if seen[name] > 1 else name)
    return distinct
