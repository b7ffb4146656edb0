"""A training run as a user sees it: an output folder with the best head so far, and beside it all that resuming needs.

`OUT/` is the head (config.json, model.safetensors, README.md), replaced whole whenever validation finds a better one.
`OUT.training/` holds run.json (what the run depends on), checkpoint.safetensors, metrics.jsonl and the features.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from frspec_cli import storage
from frspec_cli.answers import records as recorded
from frspec_cli.counting.ranking import rank_by_count
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.errors import FrspecError
from frspec_cli.heads.checkpoint import load_head, save_head
from frspec_cli.heads.config import HeadConfig, Layout, head_config_for
from frspec_cli.heads.files import read_config
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.identity import has_weights, target_identity
from frspec_cli.models.lm_head import LmHead
from frspec_cli.models.target import Target
from frspec_cli.replay.cycles import Acceptance, replay
from frspec_cli.training.card import plain_name, write_card
from frspec_cli.training.checkpoint import SavedRun
from frspec_cli.training.features import FeatureStore
from frspec_cli.training.init_head import start_head
from frspec_cli.training.init_layer import has_qkv_bias
from frspec_cli.training.interrupt import deferred
from frspec_cli.training.on_policy import check_tokenizer, doubt
from frspec_cli.training.ranks import Ranks
from frspec_cli.training.trainer import StepRecord, Trainer, TrainOptions

VALIDATION_ROWS = 8192


@dataclass(frozen=True)
class RunSettings:
    """What a run depends on besides `TrainOptions`; none of it may change on resume.

    limit: first answers used, None for all. max_tokens: stop taking answers once they hold that many answered tokens.
    taps: `hidden_states` indices, None for the default. validate_every: steps between validations, on the first
    `validation_answers` of the held-out answers. layout: the new head's.
    """

    limit: int | None = None
    max_tokens: int | None = None
    taps: tuple[int, ...] | None = None
    validate_every: int = 250
    validation_answers: int = 48
    tree: TreeConfig = field(default_factory=TreeConfig)
    layout: Layout = "fused"


class Session:
    """One run: made new or taken up where its last checkpoint left it. `train` does the rest.

    draft_ids: int64 [D], ascending, the tokens that an EAGLE-3 head gets rows for; None for the other layouts. ranks: the
    processes that train together; the files are rank 0's business. noted: more that the head's config is to say.
    """

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
        warn: Callable[[str], None] | None = None,
        checkpoint_seconds: float = 60.0,
        draft_ids: torch.Tensor | None = None,
        noted: dict[str, Any] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.target, self.out, self.options, self.settings = target, out, options, settings
        self.command, self.say, self.checkpoint_seconds = command, say, checkpoint_seconds
        self.draft_ids, self.noted, self.run = draft_ids, noted or {}, SavedRun(out)
        self.ranks = ranks or Ranks(target.device)
        self._read_answers(answers_path)
        check_tokenizer(answers_path, target)
        config = self._head_config()
        if self.ranks.main:
            self.run.begin(self._depends_on(initial))
        self.ranks.wait()
        store = partial(
            FeatureStore,
            target.model,
            taps=config.taps,
            folder=features or self.run.folder / "features",
            identity=target_identity(target),
        )
        self.held_out_features = store(self.held_out)
        if self.ranks.main and (doubted := doubt(self.held_out, self.held_out_features)):
            (warn or say)(doubted)
        self.trainer = Trainer(
            self._first_head(config, initial),
            target.lm_head,
            self.train_answers,
            store(self.train_answers),
            options,
            counts=self.counts,
            autocast=target.dtype == torch.bfloat16,
            ranks=self.ranks,
        )
        self.best = 0.0
        self._resume()

    def train(self, on_step: Callable[[StepRecord, int], None]) -> float:
        """Takes all remaining steps; returns the best validation acceptance length. Ctrl-C leaves a checkpoint."""
        trainer, saved, main = self.trainer, time.monotonic(), self.ranks.main
        with deferred(self.say) as interrupt:
            for record in trainer.run():
                if self.ranks.orphaned:
                    raise KeyboardInterrupt
                done = record.step == trainer.total_steps
                stop = self.ranks.any(interrupt.asked)  # all ranks stop after the same step
                if main:
                    self.run.log({"step": record.step, **_rounded(record)})
                    on_step(record, trainer.total_steps)
                if main and (done or record.step % self.settings.validate_every == 0):
                    self._validate(record)
                if main and (done or stop or time.monotonic() - saved > self.checkpoint_seconds):
                    self.run.save(trainer, self.best)
                    saved = time.monotonic()
                if stop and not done:
                    self.say(f"stopped at step {record.step}; the same command goes on from there")
                    raise KeyboardInterrupt
        self.ranks.wait()
        return self.best

    def _read_answers(self, path: Path) -> None:
        size = self.target.config.vocab_size
        every = recorded.read_answers(path, vocab_size=size, limit=self.settings.limit)
        self.answers_name = path.name
        self.train_answers, held_out = recorded.split(_up_to(every, self.settings.max_tokens))
        self.held_out = held_out[: self.settings.validation_answers]
        if not self.train_answers or not self.held_out:
            raise FrspecError(
                f"{path} holds a single answer: at least one is trained on and another held out for validation."
            )
        self.counts = recorded.token_counts(self.train_answers, vocab_size=size)

    def _head_config(self) -> HeadConfig:
        return head_config_for(
            self.target.config,
            taps=self.settings.taps,
            layout=self.settings.layout,
            draft_vocab_size=None if self.draft_ids is None else len(self.draft_ids),
            qkv_bias=has_qkv_bias(self.target.model),
        )

    def _first_head(self, config: HeadConfig, initial: Path | None) -> EagleHead:
        own = self._own_lm_head()
        if initial is not None:
            return self._initial_head(config, initial)
        if self.run.checkpoint.is_file() or not self.ranks.main:  # the weights come from there, or from rank 0
            embedding = self.target.embedding.float()
            return EagleHead(config, embedding_weight=embedding, own_lm_head=own).to(self.target.device)
        self.say("starting the head from the target's last layer")
        return start_head(
            self.target.model,
            config,
            self.train_answers,
            generator=torch.Generator().manual_seed(self.options.seed),
            device=self.target.device,
            own_lm_head=own,
        )

    def _initial_head(self, config: HeadConfig, path: Path) -> EagleHead:
        head = load_head(
            path,
            target_config=self.target.config,
            embedding_weight=self.target.embedding,
            device=self.target.device,
            dtype=torch.float32,
        )
        for name, value in asdict(config).items():
            if getattr(head.config, name) != value:
                raise FrspecError(
                    f"{path} cannot be the start of this head: its {name} is {getattr(head.config, name)}, the new "
                    f"one's {value}."
                )
        own = head.own_lm_head
        if own is not None:
            if own.ids is None or self.draft_ids is None or not torch.equal(own.ids.cpu(), self.draft_ids):
                raise FrspecError(f"{path} cannot be the start of this head: its LM head is over other tokens.")
            head.own_lm_head = LmHead(torch.nn.Parameter(own.weight), ids=own.ids)
        return head.requires_grad_(True).train()

    def _own_lm_head(self) -> LmHead | None:
        """EAGLE-3's rows, which start as the target's."""
        if self.draft_ids is None:
            return None
        theirs = self.target.lm_head.rows(self.draft_ids)
        return LmHead(torch.nn.Parameter(theirs.weight.float() * theirs.scale), ids=theirs.ids)

    def _validate(self, record: StepRecord) -> None:
        rows, dtype = self._validation_rows(), torch.bfloat16
        if rows.weight.dtype != dtype:
            dtype = rows.weight.dtype
        head = copy.deepcopy(self.trainer.head).to(torch.bfloat16).to(dtype).eval()
        texts = [(answer, self.held_out_features[index]) for index, answer in enumerate(self.held_out)]
        total = Acceptance.of(replay(head, rows, texts, tree=self.settings.tree))
        step, better = self.trainer.step, total.length > self.best
        self.run.log({"step": step, "acceptance_length": round(total.length, 4), "cycles": total.cycles})
        agreement = ", ".join(f"{share:.0%}" for share in record.agreement)
        self.say(
            f"step {step}: acceptance length {total.length:.3f} on held-out answers{', the best' * better}; in training "
            f"the draft's steps agree with the target in {agreement}"
        )
        if better:
            self.best = total.length
            extra = {
                "target": plain_name(self.target.name),
                "target_weights": target_identity(self.target),
                "acceptance_length": round(total.length, 4),
                **self.noted,
            }
            card = write_card(self, total, record)
            save_head(self.trainer.head, self.out, card=card, extra=extra, dtype=torch.bfloat16)

    def _validation_rows(self) -> LmHead:
        """What the draft proposes from in validation: the most frequent tokens, or an EAGLE-3 head's own rows."""
        own = self.trainer.head.own_lm_head
        if own is not None:
            return LmHead(own.weight.detach().to(self.target.lm_head.weight.dtype), ids=own.ids)
        order = rank_by_count(self.counts)[:VALIDATION_ROWS]
        return self.target.lm_head.rows(torch.from_numpy(order.copy()))

    def _depends_on(self, initial: Path | None) -> dict[str, Any]:
        if initial is not None:
            _check_initial(initial, self.target)
        ids = self.draft_ids
        return {
            "target": self.target.name,
            "target weights": target_identity(self.target),
            "dtype": str(self.target.dtype),
            "answers": recorded.fingerprint(self.train_answers),
            "held-out answers": recorded.fingerprint(self.held_out),
            "initial head": None if initial is None else storage.sha256_file(initial / "model.safetensors"),
            "processes": self.ranks.count,
            "draft vocabulary": None if ids is None else storage.sha256_ids(ids.numpy()),
            **json.loads(json.dumps(asdict(self.options) | asdict(self.settings))),
        }

    def _resume(self) -> None:
        trainer = self.trainer
        self.best = self.run.load(trainer)
        self.ranks.share(weight.data for weight in trainer.weights.values())
        if self.ranks.main:
            self.run.cut_metrics(trainer.step)
        if trainer.step:
            self.say(f"going on from step {trainer.step} of {trainer.total_steps}")


def _check_initial(path: Path, target: Target) -> None:
    """Raises `FrspecError` where there is no head at `path`, or one that was trained for other weights."""
    if not (path / "model.safetensors").is_file():
        raise FrspecError(f"there is no draft head at {path}: no folder with a model.safetensors.")
    config = read_config(path)
    recorded = config.get("target_weights")
    if recorded is not None and not has_weights(target, str(recorded)):
        raise FrspecError(
            f"{path} is the head of another target, {config.get('target')}, whose weights are not those of {target.name}."
        )


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
