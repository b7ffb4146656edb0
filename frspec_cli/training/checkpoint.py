"""`OUT.training/`: what a run depends on (run.json), its last checkpoint and its metrics."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from frspec_cli import storage
from frspec_cli.resume import TRAINING, RunFolder, run_folder
from frspec_cli.tensor_files import read_safetensors, write_safetensors
from frspec_cli.training.trainer import Trainer

FEATURES = "features"
_RECORD = "run.json"
_WEIGHT = "weight."


class SavedRun:
    """The files of the run that writes the head `out`; only its main process writes them."""

    def __init__(self, out: Path) -> None:
        self.folder = run_folder(out, TRAINING)
        self.checkpoint = self.folder / "checkpoint.safetensors"
        self.metrics = self.folder / "metrics.jsonl"

    def save(self, trainer: Trainer, best: float) -> None:
        """Writes the checkpoint: weights, the optimizer's state, the step and the best acceptance length so far."""
        tensors = {f"{_WEIGHT}{name}": weight.detach() for name, weight in trainer.weights.items()}
        tensors |= trainer.optimizer.state()
        metadata = {"step": str(trainer.step), "best": repr(best)}
        with storage.atomic_path(self.checkpoint) as temporary:
            write_safetensors({name: tensor.cpu() for name, tensor in tensors.items()}, temporary, metadata=metadata)

    def load(self, trainer: Trainer) -> float:
        """Puts `trainer` into the checkpoint's state; returns the best acceptance length so far, 0 without a checkpoint."""
        if not self.checkpoint.is_file():
            return 0.0
        with safe_open(self.checkpoint, "pt") as file:
            metadata = file.metadata()
        tensors = read_safetensors(self.checkpoint)
        trainer.step = int(metadata["step"])
        with torch.no_grad():
            for name, weight in trainer.weights.items():
                weight.copy_(tensors.pop(f"{_WEIGHT}{name}"))
        trainer.optimizer.load(tensors)
        return float(metadata["best"])

    def log(self, record: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def cut_metrics(self, step: int) -> None:
        """Drops the metrics of steps after `step`, which no checkpoint holds."""
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.is_file() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        storage.write_text(self.metrics, "".join(line + "\n" for line in kept))


@contextmanager
def held_folder(out: Path, inputs: Mapping[str, Any], *, restart: bool) -> Iterator[None]:
    """Holds the run's folder for this process, and records `inputs`, everything that the run depends on.

    restart: drop the checkpoint and the metrics of an earlier run; features stay, for their names say what they hold.
    Raises `FrspecError` if another process holds it, or if an earlier run there had other inputs, naming the first.
    """
    with RunFolder.opened(run_folder(out, TRAINING)) as folder:
        folder.resume(inputs, restart=restart, record=_RECORD, keep=(FEATURES,))
        _restore_head(out)
        yield


def _restore_head(out: Path) -> None:
    """Clears away the heads that a killed run had half put in place beside `out`."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.\d+-[0-9a-f]{{8}}\.(tmp|old)")
    for leftover in [path for path in out.parent.iterdir() if ours.fullmatch(path.name)]:
        if leftover.suffix == ".old" and not out.exists():
            leftover.rename(out)  # killed between the two renames that put a better head in its place
        else:
            shutil.rmtree(leftover)
