"""The outcomes of a verification, prompt by prompt, and the report that is made from them and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from frspec_cli import schema
from frspec_cli.errors import option

SAMPLING = "seeded sampling"
"""The name of the check that the report shows apart."""


@dataclass(frozen=True)
class Difference:
    """One emitted id that is not the reference's.

    position: index of the emitted token.
    margin: the reference's top-2 margin there, None past its end.
    ulps: the same in units in the last place of the top score.
    explained: whether rounding accounts for it; None until that is decided: for a near tie of float32 by float64, in
        reduced precision by what all prompts show of rounding.
    """

    position: int
    margin: float | None
    ulps: float | None
    explained: bool | None


@dataclass(frozen=True)
class Outcome:
    """One prompt under one check.

    accepted: drafted tokens that were accepted.
    differences: () if the ids are identical.
    rounding: in reduced precision, the largest difference of a top logit between one row and many (`identity.rounding`).
    """

    check: str
    prompt: str
    task: str
    prompt_tokens: int
    new_tokens: int
    cycles: int
    accepted: int
    differences: tuple[Difference, ...] = ()
    rounding: float | None = None

    @property
    def identical(self) -> bool:
        """Whether every id is the reference's."""
        return not self.differences

    @property
    def undecided(self) -> bool:
        """Whether a difference is still to be explained or not."""
        return any(difference.explained is None for difference in self.differences)

    @property
    def passed(self) -> bool:
        """Whether every difference is explained."""
        return all(difference.explained for difference in self.differences)

    @staticmethod
    def read(record: Any, *, file: Path | str = "a recorded outcome") -> Outcome:
        """The outcome that `asdict` made a record of. Raises `ArtifactError` if `file` holds anything else."""
        checked = schema.check(_OutcomeRecord, record, file, hint=f"{option('restart')} verifies from the beginning.")
        differences = tuple(Difference(**each.model_dump()) for each in checked.differences)
        return Outcome(**(checked.model_dump() | {"differences": differences}))


class _DifferenceRecord(schema.Schema):
    model_config = ConfigDict(allow_inf_nan=True)

    position: schema.Count
    margin: float | None
    ulps: float | None
    explained: bool | None


class _OutcomeRecord(schema.Schema):
    check: str
    prompt: str
    task: str
    prompt_tokens: schema.Count
    new_tokens: schema.Count
    cycles: schema.Count
    accepted: schema.Count
    differences: Annotated[tuple[_DifferenceRecord, ...], Field(strict=False)]
    rounding: float | None


def report(checks: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """The command's JSON object: verdict, the first greedy check's counts, all differences, and sampling apart.

    checks: the outcomes of each check, by its name, in the order in which they ran.
    """
    greedy = {name: outcomes for name, outcomes in checks.items() if name != SAMPLING}
    first: Sequence[Outcome] = next(iter(greedy.values()), ())
    sampled = checks.get(SAMPLING)
    return {
        "passed": all(outcome.passed for outcomes in checks.values() for outcome in outcomes),
        **_counts(first),
        "differences": [each for outcomes in greedy.values() for each in _differences(outcomes)],
        "sampling": None if sampled is None else _counts(sampled) | {"differences": _differences(sampled)},
        "checks": [_check(name, outcomes) for name, outcomes in checks.items()],
    }


def rounding(outcomes: Sequence[Outcome]) -> float | None:
    """The largest of the outcomes; None if none was measured."""
    return max((outcome.rounding for outcome in outcomes if outcome.rounding is not None), default=None)


def explained_margin(rounding: float) -> float:
    """The largest top-2 margin at which rounding may swap the two: each of them moves by at most that much."""
    return 2 * rounding


def _check(name: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    by_task: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_task.setdefault(outcome.task or "all", []).append(outcome)
    cycles = sum(outcome.cycles for outcome in outcomes)
    accepted = sum(outcome.accepted for outcome in outcomes)
    return {
        "name": name,
        **_counts(outcomes),
        "passed": all(outcome.passed for outcome in outcomes),
        "new_tokens": sum(outcome.new_tokens for outcome in outcomes),
        "accepted": accepted,
        "rounding": rounding(outcomes),
        "acceptance_length": round((accepted + cycles) / cycles, 4) if cycles else 1.0,
        "tasks": {task: _counts(members) for task, members in by_task.items()},
    }


def _counts(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    identical = sum(outcome.identical for outcome in outcomes)
    share = round(identical / len(outcomes), 4) if outcomes else None
    return {"prompts": len(outcomes), "identical": identical, "share": share}


def _differences(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [
        {"prompt": outcome.prompt, "task": outcome.task, "check": outcome.check} | asdict(difference)
        for outcome in outcomes
        for difference in outcome.differences
    ]
