"""A training run as a user sees it: an output folder with the best head so far, and beside it all that resuming needs.

`OUT/` is the head (config.json, model.safetensors, README.md), replaced whole whenever validation finds a better one.
`OUT.training/` holds run.json (what the run depends on), checkpoint.safetensors, metrics.jsonl and the features.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frspec_cli import storage
from frspec_cli.answers import records as recorded
from frspec_cli.errors import FrspecError, option
from frspec_cli.heads.checkpoint import save_head
from frspec_cli.heads.config import HeadConfig
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.identity import target_identity
from frspec_cli.models.locate import plain_name
from frspec_cli.models.target import Target
from frspec_cli.progress import Callbacks
from frspec_cli.replay.cycles import Acceptance
from frspec_cli.resume import is_there, refuse_finished
from frspec_cli.training.card import CardFacts, terms_of, write_card
from frspec_cli.training.checkpoint import FEATURES, SavedRun, held_folder
from frspec_cli.training.feature_plan import FeaturePlan, plan_features
from frspec_cli.training.features import FeatureSource
from frspec_cli.training.init_head import start_head
from frspec_cli.training.interrupt import deferred
from frspec_cli.training.new_head import check_warm_start, new_head_config, own_lm_head, warm_start
from frspec_cli.training.on_policy import check_on_policy, check_tokenizer
from frspec_cli.training.options import FeaturesMode, RunSettings, TrackerName, TrainOptions
from frspec_cli.training.ranks import Ranks
from frspec_cli.training.trackers import Pace, Tracker, check_trackers, open_trackers, step_values
from frspec_cli.training.trainer import StepRecord, Trainer
from frspec_cli.training.validation import VALIDATION_ROWS, acceptance_of, validation_rows


@dataclass(frozen=True, eq=False)
class RunInputs:
    """What a run is given.

    answers: the target's recorded answers.
    out: the head's folder.
    initial: the head to start from; None to start from the target's last layer.
    features_mode: where the target's features are, see `options.chosen_mode`.
    features: the folder of the target's features; None for one inside the run's.
    draft_ids: int64 [D], ascending, the tokens that an EAGLE-3 head gets rows for; None for the other layouts.
    noted: more keys of the head's config.json.
    command: the command that the card quotes.
    log_to: where the curves go besides metrics.jsonl.
    checkpoint_seconds: at least this long between checkpoints.
    recompute: see `Trainer`.
    restart: drop the checkpoint of an earlier run.
    force: replace a head that another run made.
    """

    target: Target
    answers: Path
    out: Path
    options: TrainOptions = field(default_factory=TrainOptions)
    settings: RunSettings = field(default_factory=RunSettings)
    initial: Path | None = None
    features_mode: FeaturesMode = "auto"
    features: Path | None = None
    draft_ids: torch.Tensor | None = None
    noted: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    log_to: tuple[TrackerName, ...] = ()
    checkpoint_seconds: float = 60.0
    recompute: bool = False
    restart: bool = False
    force: bool = True


@dataclass(frozen=True, eq=False)
class TrainingAnswers:
    """The answers of a run. counts: int64 [V], how often each token was answered in those trained on."""

    trained_on: list[recorded.Answer]
    held_out: list[recorded.Answer]
    counts: np.ndarray


@contextmanager
def open_run(
    inputs: RunInputs, *, callbacks: Callbacks | None = None, ranks: Ranks | None = None
) -> Iterator[TrainingRun]:
    """A run, new or resumed at its last checkpoint, whose folder this process holds until the block ends.

    callbacks: `say` and `warn` are used.
    ranks: the processes that train together; only the main one writes files.
    Raises `FrspecError` if the answers, the head to start from, or an earlier run in the folder do not fit.
    """
    target, settings, callbacks = inputs.target, inputs.settings, callbacks or Callbacks()
    check_trackers(inputs.log_to)
    ranks = ranks or Ranks(target.device)
    config = new_head_config(target, layout=settings.layout, taps=settings.taps, draft_ids=inputs.draft_ids)
    answers = read_training_answers(inputs)
    check_tokenizer(inputs.answers, target)
    if inputs.initial is not None:
        check_warm_start(inputs.initial, target)
    plan = plan_features(
        target,
        config,
        answers.trained_on,
        mode=inputs.features_mode,
        folder=inputs.features,
        epochs=inputs.options.epochs,
    )
    depends_on = _depends_on(inputs, answers, plan, processes=ranks.count)
    with _held(inputs, depends_on) if ranks.main else nullcontext():
        ranks.wait()
        saved = SavedRun(inputs.out)
        callbacks.say(plan.said())
        held_out_features = plan.source(answers.held_out, saved.folder / FEATURES)
        if ranks.main and (warning := check_on_policy(answers.held_out, held_out_features)):
            callbacks.warn(warning)
        trainer = Trainer(
            _first_head(
                inputs, config, answers, resumed=saved.checkpoint.is_file(), main=ranks.main, say=callbacks.say
            ),
            target.lm_head,
            answers.trained_on,
            plan.source(answers.trained_on, saved.folder / FEATURES),
            inputs.options,
            counts=answers.counts,
            autocast=target.dtype == torch.bfloat16,
            ranks=ranks,
            recompute=inputs.recompute,
        )
        run = TrainingRun(inputs, answers, held_out_features, trainer, saved, ranks, callbacks)
        run.resume()
        yield run


def _held(inputs: RunInputs, depends_on: Mapping[str, Any]) -> AbstractContextManager[None]:
    return held_folder(inputs.out, depends_on, restart=inputs.restart, force=inputs.force)


@dataclass(eq=False)
class TrainingRun:
    """An opened run.

    best: the best validation acceptance length so far, 0 before the first validation.
    accepts: that of the last validation of this process, 0 before.
    pace: of this process.
    """

    inputs: RunInputs
    answers: TrainingAnswers
    held_out_features: FeatureSource
    trainer: Trainer
    saved: SavedRun
    ranks: Ranks
    callbacks: Callbacks
    best: float = 0.0
    accepts: float = 0.0
    pace: Pace = field(default_factory=Pace)

    def resume(self) -> None:
        """Puts all processes into the state of the last checkpoint, if there is one.

        Unless forced, raises `AlreadyThere` after the last step, and `FrspecError` if the head of a finished run is gone.
        """
        trainer = self.trainer
        self.best = self.saved.load(trainer)
        self.ranks.share(weight.data for weight in trainer.weights.values())
        if self.ranks.main:
            self.saved.cut_metrics(trainer.step)
        if trainer.step == trainer.total_steps and not self.inputs.force:
            self._check_head()
        elif trainer.step:
            self.callbacks.say(f"resumed from step {trainer.step} of {trainer.total_steps}")

    def _check_head(self) -> None:
        out = self.inputs.out
        if not is_there(out):
            raise FrspecError(
                f"{self.saved.folder} holds a finished run, but its head {out} is gone.",
                hint=f"{option('restart')} trains it again.",
            )
        refuse_finished(out, "", restart=False)

    def train(self, on_step: Callable[[StepRecord, int], None] = lambda record, total: None) -> float:
        """Takes all remaining steps; returns the best validation acceptance length. Ctrl-C leaves a checkpoint.

        on_step: called by the main process with the record of each step and the number of all steps.
        """
        trainer, saved_at, main = self.trainer, time.monotonic(), self.ranks.main
        with self._tracked() as track, deferred(self.callbacks.say) as interrupt:
            for record in trainer.run():
                if self.ranks.orphaned:
                    raise KeyboardInterrupt
                last = record.step == trainer.total_steps
                stop = self.ranks.any(interrupt.pressed)  # all ranks stop after the same step
                if main:
                    self.saved.log({"step": record.step, **_rounded(record)})
                    self.pace.add(record.tokens)
                    track(step_values(record, self.pace.tokens_per_second), record.step)
                    on_step(record, trainer.total_steps)
                if main and (last or record.step % self.inputs.settings.validate_every == 0):
                    self._validate(record)
                    track({"acceptance_length": self.accepts}, record.step)
                if main and (last or stop or time.monotonic() - saved_at > self.inputs.checkpoint_seconds):
                    self.saved.save(trainer, self.best)
                    saved_at = time.monotonic()
                if stop and not last:
                    self.callbacks.say(f"stopped at step {record.step}")
                    raise KeyboardInterrupt
        self.ranks.wait()
        return self.best

    @contextmanager
    def _tracked(self) -> Iterator[Callable[[Mapping[str, float], int], None]]:
        """A function that hands numbers of a step to the trackers; they are closed behind the block."""
        trackers: list[Tracker] = []
        if self.ranks.main and self.inputs.log_to:
            settings = asdict(self.inputs.options) | {"layout": self.inputs.settings.layout}
            trackers = open_trackers(self.inputs.log_to, self.saved.folder, step=self.trainer.step, settings=settings)

        def track(values: Mapping[str, float], step: int) -> None:
            for tracker in trackers:
                tracker.log(values, step)

        try:
            yield track
        finally:
            for tracker in trackers:
                tracker.close()

    def _validate(self, record: StepRecord) -> None:
        """Measures the head on the held-out answers, and saves it to OUT if it is the best so far."""
        head, lm_head = self.trainer.evaluated_head(), self.inputs.target.lm_head
        rows = validation_rows(head, lm_head, self.answers.counts)
        acceptance = acceptance_of(head, rows, self.answers.held_out, self.held_out_features, self.inputs.settings.tree)
        self.accepts = acceptance.length
        better, length = acceptance.length > self.best, round(acceptance.length, 4)
        self.saved.log({"step": record.step, "acceptance_length": length, "cycles": acceptance.cycles})
        agreement = ", ".join(f"{share:.0%}" for share in record.agreement)
        self.callbacks.say(
            f"step {record.step}: acceptance length {acceptance.length:.3f} on held-out answers{', best so far' * better}; "
            f"agreement with the target at draft steps 1 to {len(record.agreement)}: {agreement}"
        )
        if better:
            self.best = acceptance.length
            target = self.inputs.target
            extra = {
                "target": plain_name(target.name),
                "target_weights": target_identity(target),
                "acceptance_length": length,
                **self.inputs.noted,
            }
            card = write_card(_card_facts(self, acceptance, record))
            save_head(head, self.inputs.out, card=card, extra=extra, dtype=torch.bfloat16)


def read_training_answers(inputs: RunInputs) -> TrainingAnswers:
    """The answers that are trained on, and those held out for validation. Raises `FrspecError` if there is only one."""
    settings, size = inputs.settings, inputs.target.config.vocab_size
    answers = recorded.read_answers(inputs.answers, vocab_size=size, limit=settings.limit)
    trained_on, held_out = recorded.split(_up_to(answers, settings.max_tokens))
    held_out = held_out[: settings.validation_answers]
    if not trained_on or not held_out:
        raise _too_few(inputs, read=len(answers), kept=len(trained_on) + len(held_out))
    return TrainingAnswers(trained_on, held_out, recorded.token_counts(trained_on, vocab_size=size))


def _too_few(inputs: RunInputs, *, read: int, kept: int) -> FrspecError:
    """The error for too few answers: what the file holds, or what the options left of it."""
    settings, needed = inputs.settings, "at least one is trained on and another held out for validation."
    limit = "" if settings.limit is None else f" ({option('limit')} {settings.limit})"
    if kept < read:
        return FrspecError(
            f"of the {read:,} answers read from {inputs.answers}{limit}, {option('max_tokens')} {settings.max_tokens} leaves "
            f"{kept}: {needed}",
            hint=f"Raise {option('max_tokens')}, or leave it out.",
        )
    if settings.limit is not None and read >= settings.limit:
        return FrspecError(f"{option('limit')} {settings.limit} leaves a single answer of {inputs.answers}: {needed}")
    return FrspecError(f"{inputs.answers} holds a single answer: {needed}")


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


def _depends_on(inputs: RunInputs, answers: TrainingAnswers, plan: FeaturePlan, *, processes: int) -> dict[str, Any]:
    """Everything that the weights depend on, as run.json keeps it."""
    target, initial, ids = inputs.target, inputs.initial, inputs.draft_ids
    return {
        "target": target.name,
        "target weights": target_identity(target),
        "dtype": str(target.dtype),
        **json.loads(json.dumps(asdict(inputs.options) | asdict(inputs.settings))),  # what a user gives comes first
        "answers": recorded.fingerprint(answers.trained_on),
        "held-out answers": recorded.fingerprint(answers.held_out),
        "initial head": None if initial is None else storage.sha256_file(initial / "model.safetensors"),
        "processes": processes,
        "--features-mode": plan.mode,  # batches of other shapes round otherwise
        "draft vocabulary": None if ids is None else storage.sha256_ids(ids.numpy()),
    }


def _first_head(
    inputs: RunInputs,
    config: HeadConfig,
    answers: TrainingAnswers,
    *,
    resumed: bool,
    main: bool,
    say: Callable[[str], None],
) -> EagleHead:
    """The head before the first step; without first weights if they come from the checkpoint, or from the main process."""
    target = inputs.target
    if inputs.initial is not None:
        return warm_start(inputs.initial, target, config, inputs.draft_ids)
    lm_head = own_lm_head(target, inputs.draft_ids)
    if resumed or not main:
        return EagleHead(config, embedding_weight=target.embedding.float(), own_lm_head=lm_head).to(target.device)
    say("initialising the head from the target's last layer")
    return start_head(
        target.model,
        config,
        answers.trained_on,
        generator=torch.Generator().manual_seed(inputs.options.seed),
        device=target.device,
        own_lm_head=lm_head,
    )


def _card_facts(run: TrainingRun, acceptance: Acceptance, record: StepRecord) -> CardFacts:
    inputs, head, trainer = run.inputs, run.trainer.head, run.trainer
    name = plain_name(inputs.target.name)
    return CardFacts(
        target=name,
        terms=terms_of(name, inputs.target.folder),
        layout=head.config.layout,
        taps=head.taps,
        parameters=sum(weight.numel() for weight in trainer.weights.values()),
        own_rows=None if head.own_lm_head is None else head.own_lm_head.size,
        validation_rows=VALIDATION_ROWS,
        command=inputs.command,
        answers_name=inputs.answers.name,
        answers=len(run.answers.trained_on),
        tokens=sum(answer.response_length for answer in run.answers.trained_on),
        options=inputs.options,
        rates=trainer.rates,
        total_steps=trainer.total_steps,
        record=record,
        acceptance_length=acceptance.length,
        cycles=acceptance.cycles,
        held_out=len(run.answers.held_out),
        tree=inputs.settings.tree,
    )


def _rounded(record: StepRecord) -> dict[str, Any]:
    return {
        "epoch": record.epoch,
        "loss": [round(x, 5) for x in record.loss],
        "agreement": [round(x, 4) for x in record.agreement],
        "learning_rate": record.learning_rate,
        "tokens": record.tokens,
    }
