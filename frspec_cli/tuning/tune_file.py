"""`tune.json`: what `frspec tune` found, as other commands read it, and whether it is about this model and machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from frspec_cli import schema
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.errors import FrspecError
from frspec_cli.tuning.costs import AcceptancePoint, CostFile, Number
from frspec_cli.tuning.kept import kept
from frspec_cli.tuning.predict import Way

SCHEMA = 1
MACHINE = ("processor", "cpu_flags", "cpu_capability", "cpu_bfloat16", "threads", "cuda")
"""Of `environment.machine`, what must be the same for times to hold."""

Rate = Annotated[float, Field(gt=0, le=1e9, strict=True)]
Size = Annotated[int, Field(ge=1, le=2048, strict=True)]


class Measured(schema.Schema):
    """What the engine did. speedup: against plain decoding in its faster dtype, by total time, with a 95 % interval."""

    tokens_per_second: Rate
    decode_tokens_per_second: Rate
    acceptance_length: Annotated[float, Field(ge=1, le=65, strict=True)]
    speedup: dict[str, float]


class WayRecord(schema.Schema):
    """One way to decode: what was predicted (decoded tokens per second), and beside it what was measured."""

    method: Literal["ar", "eagle", "frspec"]
    dtype: Literal["bfloat16", "float16", "float32", "float64"]
    k: Number | None
    depth: Size | None
    beam: Size | None
    nodes: Size | None
    predicted: Rate
    acceptance_length: Annotated[float, Field(ge=1, le=65, strict=True)]
    step_ms: Annotated[float, Field(ge=0, strict=True)]
    measured: Measured | None = None

    @property
    def way(self) -> Way:
        """With the measured total rate if there is one."""
        tree = None
        if self.depth is not None and self.beam is not None and self.nodes is not None:
            tree = TreeConfig(depth=self.depth, beam=self.beam, nodes=self.nodes)
        rate = self.measured.tokens_per_second if self.measured else self.predicted
        measured = self.measured is not None
        return Way(self.method, self.dtype, rate, self.k, tree, self.acceptance_length, self.step_ms, measured)


class About(schema.Schema):
    """What a tune is about: digests of the model, the head and the subset's file (None if there is none)."""

    model: str
    head: str | None
    subset: str | None


class TuneFile(schema.Schema):
    """A result of `frspec tune`.

    context: tokens of text that predictions stand behind.
    ways: those that were measured, best first.
    lists: whether the list pays (see `tuning.lists`), if costs of another machine were given.
    """

    kind: Literal["tune"]
    version: Annotated[int, Field(alias="schema", ge=1, le=SCHEMA, strict=True)]
    environment: dict[str, Any]
    options: dict[str, Any]
    about: About
    compiled: bool
    context: Number
    costs: CostFile
    acceptance: list[AcceptancePoint]
    ways: Annotated[list[WayRecord], Field(min_length=1, max_length=4096)]
    lists: dict[str, Any] | None = None


def read_tune(path: Path | str) -> TuneFile:
    """Raises `FrspecError` if the file is missing or is not a result of `tune`."""
    return schema.check(TuneFile, schema.read_object(path), path)


def check_fits(tune: TuneFile, about: About, *, file: Path | str, drafts: bool) -> None:
    """Raises `FrspecError` if a tune is about another model, or (if `drafts`) another head or subset."""
    names = ("model", "head", "subset") if drafts else ("model",)
    for name in names:
        if getattr(tune.about, name) != getattr(about, name):
            raise FrspecError(
                f"{file} was tuned for another {'draft head' if name == 'head' else name}.",
                hint="Run frspec tune for this one, or name the one that it was tuned for.",
            )


def other_machine(environment: dict[str, Any], here: dict[str, Any]) -> str:
    """How the machine of a tune differs from this one, in words; empty if it does not."""
    for name in MACHINE:
        if environment.get(name) != here.get(name):
            return f"{name.replace('_', ' ')} {_words(environment.get(name))}, here {_words(here.get(name))}"
    return ""


def cached_path(about: About, here: dict[str, Any], *, torch: str, device: str, compiled: bool) -> Path:
    """Where the last tune of a model, head, subset and machine is kept."""
    key = [SCHEMA, about.model_dump(), {name: here.get(name) for name in MACHINE}, torch, device, compiled]
    return kept("tune", key)


def _words(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
