"""A training run as a user sees it: an output folder with the best head so far, and beside it all that resuming needs.

`OUT/` is the head (config.json, model.safetensors, README.md), replaced whole whenever validation finds a better one.
`OUT.training/` holds run.json (what the run depends on), checkpoint.safetensors, metrics.jsonl and the features.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from frspec_cli import storage
from frspec_cli.drafting.checkpoint import load_head, save_head
from frspec_cli.drafting.config import head_config_for
from frspec_cli.drafting.files import check_out, write_tensors
from frspec_cli.drafting.head import EagleHead
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import Target
from frspec_cli.training import answers as recorded
from frspec_cli.training.card import plain_name, write_card
from frspec_cli.training.features import FeatureStore, weights_identity
from frspec_cli.training.interrupt import deferred
from frspec_cli.training.start import start_head
from frspec_cli.training.trainer import StepRecord, Trainer, TrainOptions
from frspec_cli.training.validate import Acceptance, TreeShape, replay

VALIDATION_ROWS = 8192


@dataclass(frozen=True)
class RunSettings:
    """What a run depends on besides `TrainOptions`; none of it may change on resume.

    limit: first answers used, None for all. max_tokens: stop taking answers once they hold that many answered tokens.
    taps: `hidden_states` indices, None for the default. validate_every: steps between validations, on the first
    `validation_answers` of the held-out answers.
    """

    limit: int | None = None
    max_tokens: int | None = None
    taps: tuple[int, ...] | None = None
    validate_every: int = 250
    validation_answers: int = 48
    tree: TreeShape = field(default_factory=TreeShape)


class Session:
    """One run: made new or taken up where its last checkpoint left it. `train` does the rest."""

    def __init__(
        self,
        target: Target,
        answers_path: Path,
        out: Path,
        options: TrainOptions,
        settings: RunSettings,
        *,
        initial: Path | None,
        features: Path | None,
        command: str,
        say: Callable[[str], None],
        checkpoint_seconds: float = 60.0,
    ) -> None:
        self.target, self.out, self.options, self.settings = target, out, options, settings
        self.command, self.say, self.checkpoint_seconds = command, say, checkpoint_seconds
        self.folder = out.with_name(out.name + ".training")
        config = target.config
        every = recorded.read_answers(answers_path, vocab_size=config.vocab_size, limit=settings.limit)
        self.answers_name = answers_path.name
        train, held_out = recorded.split(_up_to(every, settings.max_tokens))
        self.train_answers, self.held_out = train, held_out[: settings.validation_answers]
        if not train or not self.held_out:
            raise FrspecError(
                f"{answers_path} holds a single answer: at least one is trained on and another held out for validation."
            )
        self.counts = recorded.token_counts(train, vocab_size=config.vocab_size)
        self._check_run(initial)
        head_config = head_config_for(config, taps=settings.taps)
        store = partial(
            FeatureStore,
            target.model,
            taps=head_config.taps,
            folder=features or self.folder / "features",
            identity=weights_identity(self.target),
        )
        self.held_out_features = store(self.held_out)
        head = self._first_head(head_config, initial)
        self.trainer = Trainer(
            head,
            target.lm_head,
            train,
            store(train),
            options,
            counts=self.counts,
            autocast=target.dtype == torch.bfloat16,
        )
        self.best = 0.0
        self._resume()

    def train(self, on_step: Callable[[StepRecord, int], None]) -> float:
        """Takes all remaining steps; returns the best validation acceptance length. Ctrl-C leaves a checkpoint."""
        trainer, saved = self.trainer, time.monotonic()
        with deferred(self.say) as interrupt:
            for record in trainer.run():
                self._log({"step": record.step, **_rounded(record)})
                on_step(record, trainer.total_steps)
                done = record.step == trainer.total_steps
                if done or record.step % self.settings.validate_every == 0:
                    self._validate()
                if done or interrupt.asked or time.monotonic() - saved > self.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
                if interrupt.asked and not done:
                    self.say(f"stopped at step {record.step}; the same command goes on from there")
                    raise KeyboardInterrupt
        return self.best

    def _first_head(self, head_config: Any, initial: Path | None) -> EagleHead:
        if initial is not None:
            head = load_head(
                initial,
                target_config=self.target.config,
                embedding_weight=self.target.embedding,
                device=self.target.device,
                dtype=torch.float32,
            )
            if head.config != head_config:
                raise FrspecError(f"{initial} cannot be the start of this head: its config differs from the new one's.")
            return head.requires_grad_(True).train()
        generator = torch.Generator().manual_seed(self.options.seed)
        if (self.folder / "checkpoint.safetensors").is_file():
            return EagleHead(head_config, embedding_weight=self.target.embedding.float()).to(self.target.device)
        self.say("starting the head from the target's last layer")
        return start_head(
            self.target.model, head_config, self.train_answers, generator=generator, device=self.target.device
        )

    def _validate(self) -> None:
        head = copy.deepcopy(self.trainer.head).to(torch.bfloat16).eval()
        order = np.lexsort((np.arange(len(self.counts)), -self.counts))[:VALIDATION_ROWS]
        rows = self.target.lm_head.rows(torch.from_numpy(order.copy()))
        if rows.weight.dtype != torch.bfloat16:
            head = head.to(rows.weight.dtype)
        total = Acceptance()
        for index, answer in enumerate(self.held_out):
            total += replay(head, rows, answer, self.held_out_features[index], shape=self.settings.tree)
        step, better = self.trainer.step, total.length > self.best
        self._log({"step": step, "acceptance_length": round(total.length, 4), "cycles": total.cycles})
        self.say(f"step {step}: acceptance length {total.length:.3f} on held-out answers{', the best' * better}")
        if better:
            self.best = total.length
            card = write_card(self, total)
            extra = {"target": plain_name(self.target.name), "acceptance_length": round(total.length, 4)}
            save_head(self.trainer.head, self.out, card=card, extra=extra, dtype=torch.bfloat16)

    # --- what resuming needs

    def _check_run(self, initial: Path | None) -> None:
        if initial is not None and not (initial / "model.safetensors").is_file():
            raise FrspecError(f"there is no draft head at {initial}: no folder with a model.safetensors.")
        run = {
            "target": self.target.name,
            "target weights": weights_identity(self.target),
            "dtype": str(self.target.dtype),
            "answers": recorded.fingerprint(self.train_answers),
            "held-out answers": recorded.fingerprint(self.held_out),
            "initial head": None if initial is None else storage.sha256_file(initial / "model.safetensors"),
            **json.loads(json.dumps(asdict(self.options) | asdict(self.settings))),
        }
        check_out(self.out)
        self._claim()
        path = self.folder / "run.json"
        if not path.is_file():
            storage.write_json(path, run)
            return
        before = storage.read_json(path)
        for name in sorted(run.keys() | before.keys()):
            if run.get(name) != before.get(name):
                raise FrspecError(
                    f"{self.folder} holds a run with another {name}: {before.get(name)}, now {run.get(name)}.",
                    hint="Use the same options to go on with it, choose another --out, or remove that folder.",
                )

    def _claim(self) -> None:
        """Makes the run's folder this process's own, and clears away what a killed one was about to write."""
        taken = f"another run is training {self.out} at this moment."
        self._lock = storage.claim_folder(self.folder, taken)  # held until the process ends
        ours = re.compile(rf"\.{re.escape(self.out.name)}\.\d+-[0-9a-f]{{8}}\.(tmp|old)")
        for leftover in [path for path in self.out.parent.iterdir() if ours.fullmatch(path.name)]:
            if leftover.suffix == ".old" and not self.out.exists():
                leftover.rename(self.out)  # killed between the two renames that put a better head in its place
            else:
                shutil.rmtree(leftover)
        for unfinished in self.folder.glob(".*.tmp"):
            unfinished.unlink()

    def _save(self) -> None:
        trainer = self.trainer
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in trainer.head.named_parameters():
            tensors[f"weight.{name}"] = parameter.detach()
            for key, value in trainer.optimizer.state[parameter].items():
                tensors[f"{key}.{name}"] = value
        metadata = {"step": str(trainer.step), "best": repr(self.best)}
        with storage.atomic_path(self.folder / "checkpoint.safetensors") as temporary:
            write_tensors({name: tensor.cpu() for name, tensor in tensors.items()}, temporary, metadata=metadata)

    def _resume(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        if not path.is_file():
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
            return
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        trainer = self.trainer
        trainer.step, self.best = int(metadata["step"]), float(metadata["best"])
        with torch.no_grad():
            for name, parameter in trainer.head.named_parameters():
                parameter.copy_(tensors[f"weight.{name}"])
                trainer.optimizer.state[parameter] = {
                    key: tensors[f"{key}.{name}"].to("cpu" if key == "step" else parameter.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        metrics = self.folder / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.is_file() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= trainer.step]
        storage.write_text(metrics, "".join(line + "\n" for line in kept))
        self.say(f"going on from step {trainer.step} of {trainer.total_steps}")

    def _log(self, record: dict[str, Any]) -> None:
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")


def _rounded(record: StepRecord) -> dict[str, Any]:
    return {
        "epoch": record.epoch,
        "loss": [round(x, 5) for x in record.loss],
        "agreement": [round(x, 4) for x in record.agreement],
        "learning_rate": record.learning_rate,
        "tokens": record.tokens,
    }


def _up_to(answers: list[recorded.Answer], max_tokens: int | None) -> list[recorded.Answer]:
    if max_tokens is None:
        return answers
    kept, total = [], 0
    for answer in answers:
        if total >= max_tokens:
            break
        kept.append(answer)
        total += answer.response_length
    return kept
