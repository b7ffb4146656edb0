"""Where a run's curves can be followed besides metrics.jsonl: TensorBoard's event files, or Weights & Biases."""

from __future__ import annotations

import hashlib
import importlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from frspec_cli.errors import FrspecError, option
from frspec_cli.training.options import TrackerName
from frspec_cli.training.trainer import StepRecord

_REMEMBERED = 50  # steps that the pace is an average of


class Tracker(Protocol):
    """Takes numbers by name, step by step."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in `folder`. step: the last one that is kept of an earlier run there; TensorBoard hides later ones."""

    def __init__(self, folder: Path, *, step: int) -> None:
        _module("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """A scalar for each name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A wandb run that goes on where a stopped one of the same output ended. settings: what the run depends on."""

    def __init__(self, folder: Path, *, settings: Mapping[str, Any]) -> None:
        wandb = _module("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        number = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project="frspec",
            name=folder.parent.name.removesuffix(".training"),
            id=number,
            dir=str(folder),
            resume="allow",
            config=dict(settings),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """A point for each name."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()


def open_trackers(
    names: Sequence[TrackerName], folder: Path, *, step: int, settings: Mapping[str, Any]
) -> list[Tracker]:
    """The trackers that an option names, with their files in subfolders of `folder`, from step `step` on.

    Raises `FrspecError` if the package of one is not installed.
    """
    opened: list[Tracker] = []
    for name in names:
        own = folder / name
        opened.append(
            TensorBoard(own, step=step) if name == "tensorboard" else WeightsAndBiases(own, settings=settings)
        )
    return opened


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raises `FrspecError` if the package of a tracker is not installed, before anything is computed."""
    for name in names:
        _module(name, name)


def step_values(record: StepRecord, tokens_per_second: float | None) -> dict[str, float]:
    """A step's numbers by the names that a tracker shows; steps of the draft count from 1."""
    values = {"learning_rate": record.learning_rate, "epoch": record.epoch, "tokens": record.tokens}
    values |= {f"loss/step_{k}": loss for k, loss in enumerate(record.loss, 1)}
    values |= {f"agreement/step_{k}": share for k, share in enumerate(record.agreement, 1)}
    return values if tokens_per_second is None else values | {"tokens_per_second": tokens_per_second}


class Pace:
    """Answered tokens a second over the last steps; the clock runs from one step's end to the next one's."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def add(self, tokens: int) -> None:
        """A step has ended."""
        self._ends = [*self._ends[-_REMEMBERED:], (time.monotonic(), tokens)]

    @property
    def tokens_per_second(self) -> float | None:
        """None before the first step."""
        seconds = self._ends[-1][0] - self._ends[0][0]
        tokens = sum(tokens for _, tokens in self._ends[1:])
        return tokens / seconds if tokens and seconds > 0 else None


def talk(record: StepRecord, pace: Pace, acceptance: float) -> str:
    """What a progress line says of a step. acceptance: the last validation's length; 0 before the first."""
    loss = math.fsum(record.loss) / len(record.loss)
    words = [f"loss {loss:.3f}", f"agrees {' '.join(f'{share:.0%}' for share in record.agreement)}"]
    if (speed := pace.tokens_per_second) is not None:
        words.append(f"{speed:,.0f} tokens/s")
    return ", ".join([*words, f"accepts {acceptance:.2f}"] if acceptance else words)


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise FrspecError(
            f"{option('log_to')} {name} needs the package {package}, which is not installed.",
            hint=f"pip install {package}",
        ) from None
