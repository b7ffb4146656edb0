"""`OUT.training/`: what a run depends on (run.json), its last checkpoint and its metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from frspec_cli import leftovers, schema, storage
from frspec_cli.errors import ArtifactError, FrspecError, option
from frspec_cli.resume import TRAINING, RunFolder, is_there, refuse_foreign, run_folder
from frspec_cli.tensor_files import read_metadata, read_safetensors, write_safetensors
from frspec_cli.training.trainer import Trainer

FEATURES = "features"
_RECORD = "run.json"
_WEIGHT, _AVERAGE = "weight.", "average."
_STATES = ("weight", "average", "step", "exp_avg", "exp_avg_sq", "momentum_buffer")
"""What a checkpoint holds of each weight: itself, its moving average if there is one, and what AdamW or Muon keep of it."""


class _Progress(schema.Schema):
    """A checkpoint's metadata, which safetensors keeps as text."""

    step: Annotated[str, Field(pattern="^[0-9]{1,12}$")]
    best: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(e-?[0-9]{1,3})?$")]


class _Metrics(schema.Schema):
    step: schema.Count


class SavedRun:
    """The files of the run that writes the head `out`; only its main process writes them."""

    def __init__(self, out: Path) -> None:
        self.folder = run_folder(out, TRAINING)
        self.checkpoint = self.folder / "checkpoint.safetensors"
        self.metrics = self.folder / "metrics.jsonl"

    def save(self, trainer: Trainer, best: float) -> None:
        """Writes the checkpoint: weights, the optimizer's state, the step and the best acceptance length so far."""
        tensors = {f"{_WEIGHT}{name}": weight.detach() for name, weight in trainer.weights.items()}
        if trainer.average is not None:
            tensors |= {f"{_AVERAGE}{name}": weight for name, weight in trainer.average.weights.items()}
        tensors |= trainer.optimizer.state()
        metadata = {"step": str(trainer.step), "best": repr(best)}
        with storage.atomic_path(self.checkpoint) as temporary:
            write_safetensors({name: tensor.cpu() for name, tensor in tensors.items()}, temporary, metadata=metadata)

    def load(self, trainer: Trainer) -> float:
        """Puts `trainer` into the checkpoint's state; returns the best acceptance length so far, 0 without a checkpoint."""
        if not self.checkpoint.is_file():
            return 0.0
        restart = f"{option('restart')} starts the training over."
        try:
            metadata, tensors = read_metadata(self.checkpoint), read_safetensors(self.checkpoint)
        except FrspecError as error:
            raise FrspecError(error.message, hint=restart) from None
        recorded = schema.check(_Progress, metadata, self.checkpoint, hint=restart)
        self._check(tensors, trainer, hint=restart)
        trainer.step = int(recorded.step)
        with torch.no_grad():
            for name, weight in trainer.weights.items():
                weight.copy_(tensors.pop(f"{_WEIGHT}{name}"))
                average = tensors.pop(f"{_AVERAGE}{name}", None)
                if trainer.average is not None and average is not None:
                    trainer.average.weights[name].copy_(average)
        trainer.optimizer.load(tensors)
        return float(recorded.best)

    def _check(self, tensors: dict[str, torch.Tensor], trainer: Trainer, *, hint: str) -> None:
        """Raises `ArtifactError` unless every weight is there, and nothing but weights and the optimizer's state of them."""
        weights = trainer.weights
        for part in (_WEIGHT,) if trainer.average is None else (_WEIGHT, _AVERAGE):
            for name in weights:
                if f"{part}{name}" not in tensors:
                    raise ArtifactError(
                        self.checkpoint, f"the tensor {part}{name}", "a weight", found="missing", hint=hint
                    )
        for name, tensor in tensors.items():
            what, _, key = name.partition(".")
            if key not in weights or what not in _STATES:
                raise ArtifactError(
                    self.checkpoint, f"the tensor {name}", "a weight or its state", found="neither", hint=hint
                )
            expected = [] if what == "step" else list(weights[key].shape)
            if list(tensor.shape) != expected or not tensor.is_floating_point():
                found = f"of the shape {list(tensor.shape)} and {tensor.dtype}"
                raise ArtifactError(
                    self.checkpoint, f"the tensor {name}", f"{expected} of floats", found=found, hint=hint
                )

    def log(self, record: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        storage.append_text(self.metrics, json.dumps(record) + "\n")

    def cut_metrics(self, step: int) -> None:
        """Drops the metrics of steps after `step`, which no checkpoint holds."""
        lines = self.metrics.read_bytes().splitlines() if self.metrics.is_file() else []
        kept = [
            line for number, line in enumerate(lines, 1) if line.endswith(b"}") and self._step_of(line, number) <= step
        ]
        storage.write_bytes(self.metrics, b"".join(line + b"\n" for line in kept))

    def _step_of(self, line: bytes, number: int) -> int:
        where, hint = f"{self.metrics}, line {number}", f"Remove the file, or start over with {option('restart')}."
        return schema.check(_Metrics, schema.parse_json(line, where, hint=hint), where, hint=hint).step


@contextmanager
def held_folder(out: Path, inputs: Mapping[str, Any], *, restart: bool, force: bool = True) -> Iterator[None]:
    """Holds the run's folder for this process, and records `inputs`, everything that the run depends on.

    restart: drop the checkpoint and the metrics of an earlier run; features stay, for their names say what they hold.
    force: replace a head at `out` that another run made.
    Raises `FrspecError` if another process holds it, or if an earlier run there had other inputs, naming the first.
    """
    with RunFolder.opened(run_folder(out, TRAINING)) as folder:
        if not force and is_there(out):
            refuse_foreign(out, folder.path(_RECORD), inputs, restart=restart)
        folder.resume(inputs, restart=restart, record=_RECORD, keep=(FEATURES,))
        leftovers.clear(storage.followed(out), held=True)  # a better head may have been half in its place
        yield
