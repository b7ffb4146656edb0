"""`OUT.training/`: what a run depends on (run.json), its last checkpoint, its metrics, and the lock of who is at it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from frspec_cli import storage
from frspec_cli.errors import FrspecError
from frspec_cli.tensor_files import write_safetensors
from frspec_cli.training.trainer import Trainer

_WEIGHT = "weight."
_BEFORE = {"accumulate": 1, "processes": 1, "layout": "fused", "draft vocabulary": None, "optimizer": "adamw"}
"""What runs were that were begun before they wrote these down."""


class SavedRun:
    """The folder of the run that writes the head `out`."""

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, out.with_name(out.name + ".training")
        self.checkpoint = self.folder / "checkpoint.safetensors"
        self.metrics = self.folder / "metrics.jsonl"
        self._lock: Any = None

    def begin(self, run: dict[str, Any]) -> None:
        """Takes the folder for this process until it ends. run: all that the run depends on, by the user's names.

        Raises `FrspecError` where another process is at it, or it was begun with something else, which is named.
        """
        self._claim()
        path = self.folder / "run.json"
        if not path.is_file():
            storage.write_json(path, run)
            return
        before = _BEFORE | storage.read_json(path)
        for name in sorted(run.keys() | before.keys()):
            if run.get(name) != before.get(name):
                raise FrspecError(
                    f"{self.folder} holds a run with another {name}: {before.get(name)}, now {run.get(name)}.",
                    hint="Use the same options to go on with it, choose another --out, or remove that folder.",
                )

    def close(self) -> None:
        """Lets another process have the folder."""
        self._lock.close()

    def save(self, trainer: Trainer, best: float) -> None:
        """The checkpoint: weights, the optimizer's state, the step and the best acceptance length so far."""
        tensors = {f"{_WEIGHT}{name}": weight.detach() for name, weight in trainer.weights.items()}
        tensors |= trainer.optimizer.state()
        metadata = {"step": str(trainer.step), "best": repr(best)}
        with storage.atomic_path(self.checkpoint) as temporary:
            write_safetensors({name: tensor.cpu() for name, tensor in tensors.items()}, temporary, metadata=metadata)

    def load(self, trainer: Trainer) -> float:
        """Puts `trainer` where the checkpoint was; the best acceptance length until then. 0 where there is none."""
        if not self.checkpoint.is_file():
            return 0.0
        with safe_open(self.checkpoint, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(self.checkpoint)
        trainer.step = int(metadata["step"])
        with torch.no_grad():
            for name, weight in trainer.weights.items():
                weight.copy_(tensors.pop(f"{_WEIGHT}{name}"))
        trainer.optimizer.load(tensors)
        return float(metadata["best"])

    def log(self, record: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        with open(self.metrics, "a") as file:
            file.write(json.dumps(record) + "\n")

    def cut_metrics(self, step: int) -> None:
        """Forgets the metrics of steps after `step`, which no checkpoint holds."""
        lines = self.metrics.read_text().splitlines() if self.metrics.is_file() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        storage.write_text(self.metrics, "".join(line + "\n" for line in kept))

    def _claim(self) -> None:
        """Makes the folder this process's own, and clears away what a killed one was about to write."""
        self._lock = storage.claim_folder(self.folder, f"another run is training {self.out} at this moment.")
        ours = re.compile(rf"\.{re.escape(self.out.name)}\.\d+-[0-9a-f]{{8}}\.(tmp|old)")
        for leftover in [path for path in self.out.parent.iterdir() if ours.fullmatch(path.name)]:
            if leftover.suffix == ".old" and not self.out.exists():
                leftover.rename(self.out)  # killed between the two renames that put a better head in its place
            else:
                shutil.rmtree(leftover)
        for unfinished in self.folder.glob(".*.tmp"):
            unfinished.unlink()
