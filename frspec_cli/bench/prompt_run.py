"""A run over prompts that loses nothing: each prompt's measurements appear in a file of their own as soon as they are made.

A prompt that cannot be decoded (it is too long, say) is recorded with the reason, and the run continues without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import model_validator

from frspec_cli import schema, storage
from frspec_cli.answers.batched_decode import TokenizedPrompt
from frspec_cli.bench.measure import RESTART
from frspec_cli.bench.options import BenchOptions
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.decoding.pipeline_identity import pipeline_identity
from frspec_cli.environment import environment
from frspec_cli.errors import FrspecError
from frspec_cli.progress import Callbacks
from frspec_cli.resume import INPUTS, RunFolder, check_finished, run_folder

SCHEMA = 1
_VERSION = 1
_FLAGS = {"ks": "--k", "compiled": "--compile"}  # where a record's name is not the option's
_MACHINE = ("processor", "cpu_flags", "cpu_capability", "threads", "cuda", "torch")  # other times do not mix


class _Measured(schema.Schema):
    """The file of one prompt under one stage: its failure, or what was measured."""

    failure: dict[str, str] | None = None
    value: Any = None

    @model_validator(mode="after")
    def _either(self) -> _Measured:
        if self.failure is not None and not self.failure.keys() >= {"id", "reason"}:
            raise ValueError("a failure with an id and a reason")
        if self.failure is None and "value" not in self.model_fields_set:
            raise ValueError("a value or a failure")
        return self


class PromptRun:
    """One run in its folder. failures: {"id", "reason"} of each prompt that failed, in the suite's order."""

    def __init__(
        self, folder: RunFolder, inputs: dict[str, Any], prompts: Sequence[TokenizedPrompt], callbacks: Callbacks
    ) -> None:
        self.folder, self.inputs, self.prompts, self.callbacks = folder, inputs, prompts, callbacks
        self._failures: dict[int, dict[str, str]] = {}

    @staticmethod
    @contextmanager
    def opened(
        out: Path,
        inputs: dict[str, Any],
        prompts: Sequence[TokenizedPrompt],
        *,
        restart: bool,
        force: bool,
        callbacks: Callbacks,
    ) -> Iterator[PromptRun]:
        """The run of the result `out`, a new one or a stopped one with equal inputs.

        Raises `AlreadyThere` if `out` is complete, `FrspecError` if it is something else, unless forced.
        """
        check_finished(out, inputs, restart=restart, force=force)
        with RunFolder.opened(run_folder(out)) as folder:
            if folder.resume(inputs, restart=restart):
                callbacks.say("resuming a stopped run")
            yield PromptRun(folder, inputs, prompts, callbacks)

    @property
    def failures(self) -> list[dict[str, str]]:
        return [self._failures[index] for index in sorted(self._failures)]

    def measure(
        self,
        stage: str,
        indices: Iterable[int],
        measure: Callable[[int], Any],
        *,
        prepare: Callable[[], None] = lambda: None,
    ) -> dict[int, Any]:
        """`measure(index)` of every prompt that does not fail, as JSON values; of those already there, what is recorded.

        prepare: called once before the first prompt that is measured now.
        Raises `FrspecError` if every prompt fails.
        """
        indices = [index for index in indices if index not in self._failures]
        missing = [index for index in indices if not self.path(stage, index).is_file()]
        self.callbacks.finished(len(indices) - len(missing))
        if missing:
            prepare()
        for index in missing:
            storage.write_json(self.path(stage, index), self._record(index, measure))
            self.callbacks.finished(1)
        values = {}
        for index in indices:
            path = self.path(stage, index)
            record = schema.check(_Measured, schema.read_json(path, hint=RESTART), path, hint=RESTART)
            if record.failure is not None:
                self._failures[index] = record.failure
            else:
                values[index] = record.value
        if not values:
            self.folder.remove()  # nothing is worth resuming
            first = self.failures[0]
            raise FrspecError(
                f"all {len(indices):,} prompts failed, the first ({first['id']}) because {first['reason']}"
            )
        return values

    def finish(self, out: Path, result: dict[str, Any]) -> None:
        """Writes the result and removes the folder."""
        storage.write_json(out, result | {INPUTS: self.inputs})
        self.folder.remove()

    def _record(self, index: int, measure: Callable[[int], Any]) -> dict[str, Any]:
        try:
            return {"value": measure(index)}
        except FrspecError as error:
            failure = {"id": self.prompts[index].id, "reason": str(error)}
            self.callbacks.warn(f"prompt {failure['id']} failed: {error.message}")
            return {"failure": failure}

    def path(self, stage: str, index: int) -> Path:
        """The file of one prompt under one stage."""
        return self.folder.path(f"{stage}-{index:06d}.json")


def settings(pipeline: Pipeline, options: BenchOptions) -> dict[str, Any]:
    """What a result says about how it was measured."""
    target = pipeline.target
    return {
        "schema": SCHEMA,
        "environment": environment(),
        "options": {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()},
            "model": target.name,
            "draft": pipeline.draft,
            "vocab": pipeline.vocab,
            "dtype": str(target.dtype).removeprefix("torch."),
            "device": str(target.device),
            "compiled": pipeline.compiler is not None,
        },
    }


def run_inputs(pipeline: Pipeline, options: BenchOptions, prompts: Sequence[TokenizedPrompt]) -> dict[str, Any]:
    """What the measurements depend on, by the names that a user knows them by."""
    recorded = settings(pipeline, options)
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.id, prompt.source, prompt.ids]).encode() + b"\n")
    return {
        "version": _VERSION,
        **{_FLAGS.get(name, f"--{name.replace('_', '-')}"): value for name, value in recorded["options"].items()},
        **pipeline_identity(pipeline),
        **{name: recorded["environment"][name] for name in _MACHINE},
        "prompts": digest.hexdigest(),
    }
