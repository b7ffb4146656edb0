"""Methods measured side by side: the same prompts, interleaved in one run, and tokens counted one way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import AfterValidator

from frspec_cli import schema
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.generation import Generation
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.decoding.warm_up import warm_up as warm_up_engine
from frspec_cli.errors import ArtifactError, FrspecError, option

WARM_UP_TOKENS = 8
RESTART = f"{option('restart')} measures from the beginning."
Item = TypeVar("Item")


class Decoder(Protocol):
    """What can be measured: an engine, or the baseline."""

    def complete(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        ignore_eos: bool = False,
    ) -> Generation:
        """Decodes one text, greedily by default."""


@dataclass(frozen=True)
class Arm:
    """One method under its name in the tables (`ar`, `eagle`, `frspec`, `frspec@4096`...); k: tokens it can draft."""

    name: str
    decoder: Decoder
    k: int = 0


def _whole_times(seconds: dict[str, float]) -> dict[str, float]:
    if not seconds.keys() >= {"total", "prefill", "draft"}:
        raise ValueError("seconds of total, prefill and draft")
    return seconds


@dataclass(frozen=True)
class Measurement:
    """One prompt decoded by one arm."""

    arm: str
    generation: Generation

    def as_json(self) -> dict[str, Any]:
        """What a run's folder keeps."""
        return {"arm": self.arm, **asdict(self.generation)}

    @staticmethod
    def read(record: Any, *, file: Path | str) -> Measurement:
        """The measurement that `as_json` made a record of. Raises `ArtifactError` if `file` holds anything else."""
        checked = schema.check(_MeasurementRecord, record, file, hint=RESTART).model_dump()
        return Measurement(checked.pop("arm"), Generation(**checked))


class _MeasurementRecord(schema.Schema):
    arm: str
    token_ids: list[schema.TokenId]
    accepted: list[schema.Count]
    truncated: schema.Count
    prompt_tokens: schema.Count
    text: str
    seconds: Annotated[dict[str, float], AfterValidator(_whole_times)]
    draft_seconds: list[float]


def read_run(records: Any, file: Path | str, arms: Collection[str]) -> list[Measurement]:
    """One prompt's measurements, of every arm once. Raises `ArtifactError` if `file` holds anything else."""
    if not isinstance(records, list):
        raise ArtifactError(file, "its content", "a list of measurements", found=schema.shown(records), hint=RESTART)
    run = [Measurement.read(each, file=file) for each in records]
    if sorted(each.arm for each in run) != sorted(arms):
        found = ", ".join(each.arm for each in run) or "nothing"
        raise ArtifactError(
            file, "its content", f"measurements of {', '.join(arms)}", found=f"of {found}", hint=RESTART
        )
    return run


@dataclass
class Totals:
    """An arm's sums over its prompts. seconds: total, prefill, draft, verify, other."""

    texts: int = 0
    new_tokens: int = 0
    cycles: int = 0
    accepted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def of(generations: Iterable[Generation]) -> Totals:
        """The sums over some texts."""
        totals = Totals()
        for generation in generations:
            totals.texts += 1
            totals.new_tokens += generation.new_tokens
            totals.cycles += generation.cycles
            totals.accepted += sum(generation.accepted)
            for name, value in generation.seconds.items():
                totals.seconds[name] = totals.seconds.get(name, 0.0) + value
        return totals

    @property
    def acceptance_length(self) -> float:
        """Mean of (accepted + 1) over all cycles; 1.0 for plain decoding."""
        return (self.accepted + self.cycles) / self.cycles if self.cycles else 1.0

    @property
    def tokens_per_second(self) -> float:
        """All new tokens over all seconds, prefill included."""
        return self.new_tokens / self.seconds["total"]

    @property
    def decode_tokens_per_second(self) -> float:
        """The tokens after each text's first over the seconds after its prefill."""
        return (self.new_tokens - self.texts) / (self.seconds["total"] - self.seconds["prefill"])

    @property
    def draft_seconds_per_cycle(self) -> float:
        """Seconds in the drafter per cycle, the prompt's pass not counted."""
        return self.seconds["draft"] / self.cycles if self.cycles else 0.0


def rotated(items: Sequence[Item], turn: int) -> list[Item]:
    """The items from number `turn` (modulo their number) on, then those before it."""
    start = turn % len(items)
    return [*items[start:], *items[:start]]


def measure_prompt(
    arms: Sequence[Arm],
    prompt_ids: Sequence[int],
    *,
    turn: int,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    ignore_eos: bool = False,
) -> list[Measurement]:
    """One prompt decoded by every arm, in the order run.

    turn: the measurement's number. The starting arm rotates with it, so that a drift of the machine's speed affects all alike.
    """
    return [
        Measurement(
            arm.name,
            arm.decoder.complete(prompt_ids, max_new_tokens=max_new_tokens, sampling=sampling, ignore_eos=ignore_eos),
        )
        for arm in rotated(arms, turn)
    ]


def warm_up(
    decoder: Decoder, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, sampling: Sampling | None = None
) -> None:
    """Decodes a little, unmeasured: an engine at every shape that these prompts (as token ids) call for."""
    if isinstance(decoder, Engine):
        warm_up_engine(decoder, prompts, max_new_tokens=max_new_tokens, sampling=sampling)
        return
    for ids in prompts:
        try:
            decoder.complete(ids, max_new_tokens=WARM_UP_TOKENS, ignore_eos=True)
        except FrspecError:
            continue
        return
