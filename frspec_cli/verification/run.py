"""A verification as a run: a fair choice of prompts, outcomes kept as they come, one result file at the end.

Each prompt's outcome appears whole in `OUT.ledger/`, so a run that was killed resumes with the next prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from frspec_cli import storage
from frspec_cli.answers.batched_decode import TokenizedPrompt
from frspec_cli.answers.prompts import Prompt, prompt_ids
from frspec_cli.answers.tasks import stratified_sample, tasks
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.decoding.pipeline_identity import pipeline_identity
from frspec_cli.environment import environment
from frspec_cli.errors import FrspecError, option
from frspec_cli.models.target import Target
from frspec_cli.progress import Callbacks
from frspec_cli.resume import INPUTS, RunFolder, check_finished, run_folder
from frspec_cli.schema import read_json
from frspec_cli.verification.options import VerifyOptions
from frspec_cli.verification.report import Outcome, report
from frspec_cli.verification.rules import Check, Verifier, plan_checks, settle_by_rounding

SCHEMA = 1
_VERSION = 2
_NAMED_PROMPTS = 5  # of those left out


def verify(
    load: Callable[[str], Pipeline],
    prompts: Sequence[Prompt],
    options: VerifyOptions,
    *,
    out: Path | None = None,
    restart: bool = False,
    force: bool = True,
    choice: dict[str, Any] | None = None,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Verifies on the prompts that fit into the model's context and returns the result; see `Verification`."""
    callbacks = callbacks or Callbacks()
    verifier = Verifier(load, options)
    tokenized, left_out = select_prompts(
        verifier.pipeline(options.dtype).target,
        prompts,
        max_new_tokens=options.max_new_tokens,
        limit=options.limit,
    )
    if left_out:
        names = ", ".join(left_out[:_NAMED_PROMPTS]) + (", ..." if len(left_out) > _NAMED_PROMPTS else "")
        callbacks.warn(f"{len(left_out):,} prompts do not fit into the model's context and are left out: {names}.")
    return Verification(verifier, tokenized, tuple(left_out), choice).run(
        out=out, restart=restart, force=force, callbacks=callbacks
    )


def select_prompts(
    target: Target, prompts: Sequence[Prompt], *, max_new_tokens: int, limit: int | None = None
) -> tuple[list[TokenizedPrompt], list[str]]:
    """(prompts as token ids with their task as source, ids of those too long for the context with `max_new_tokens`).

    limit: use this many of those that fit, spread evenly over the tasks. A prompt is never cut: a chat's end would go,
    and the text would be another one. Raises `FrspecError` if none fits.
    """
    longest = int(target.config.max_position_embeddings) - max_new_tokens
    labels = tasks([prompt.category for prompt in prompts])
    tokenized = [
        TokenizedPrompt(prompt.id, prompt.text, tuple(prompt_ids(target, prompt)), label)
        for prompt, label in zip(prompts, labels, strict=True)
    ]
    fitting = [prompt for prompt in tokenized if len(prompt.ids) <= longest]
    if not fitting:
        raise FrspecError(
            f"no prompt fits with {max_new_tokens} new tokens into the model's context of {longest + max_new_tokens}.",
            hint=f"Lower {option('max_new_tokens')} or shorten the prompts.",
        )
    left_out = [prompt.id for prompt in tokenized if len(prompt.ids) > longest]
    indices = stratified_sample([prompt.source for prompt in fitting], len(fitting) if limit is None else limit)
    return [fitting[index] for index in indices], left_out


@dataclass(frozen=True)
class Verification:
    """One run over prompts whose `source` is their task.

    left_out: ids of the prompts that did not fit.
    choice: why the tree was chosen; the result records it.
    """

    verifier: Verifier
    prompts: Sequence[TokenizedPrompt]
    left_out: tuple[str, ...] = ()
    choice: dict[str, Any] | None = None

    def run(
        self,
        *,
        out: Path | None = None,
        restart: bool = False,
        force: bool = True,
        callbacks: Callbacks | None = None,
    ) -> dict[str, Any]:
        """Runs what is missing and returns the result. With `out` it is written there, and a killed run resumes.

        callbacks: `begin` gets the number of outcomes ahead, `finished` one outcome at a time.
        force: replace what is at `out`, whatever made it.
        Raises `FrspecError` if a stopped run was begun with other options (naming the first), or another process holds
        the lock; see `check_finished` for what is at `out` already.
        """
        callbacks = callbacks or Callbacks()
        checks = plan_checks(self.verifier.options, self.prompts)
        if not checks:
            raise FrspecError(
                "no check would run on any prompt.",
                hint=f"Raise {option('rescored')}, {option('stepwise')}, {option('stock')} or {option('sampled')}.",
            )
        record = self._record()
        inputs = self._inputs(record)
        if out is not None:
            check_finished(out, inputs, restart=restart, force=force)
        with nullcontext() if out is None else RunFolder.opened(run_folder(out)) as folder:
            if folder is not None:
                folder.resume(inputs, restart=restart)
            ledger = _Ledger(folder)
            self._run_checks(checks, ledger, callbacks)
            self._settle(checks, ledger, callbacks)
            result = self._result(record, {check.name: ledger.outcomes(check) for check in checks})
            if out is not None and folder is not None:
                storage.write_json(out, result | {INPUTS: inputs})
                folder.remove()
        return result

    def _run_checks(self, checks: Sequence[Check], ledger: _Ledger, callbacks: Callbacks) -> None:
        total = sum(len(check.prompts) for check in checks)
        missing = [(check, index) for check in checks for index in check.prompts if not ledger.holds(check, index)]
        if len(missing) < total:
            callbacks.say(f"resuming: {total - len(missing):,} of {total:,} outcomes are there")
        callbacks.begin(len(missing))
        alone = [(check, index) for check, index in missing if check.rule == "stock"]
        for check, index in missing:
            if check.rule != "stock":
                ledger.put(check, index, self.verifier.outcome(check, self.prompts[index]))
                callbacks.finished(1)
        if alone:
            callbacks.say(f"scoring {len(alone):,} texts by transformers alone, in a process of its own")
            outcomes = self.verifier.by_transformers(alone[0][0], [self.prompts[index] for _, index in alone])
            for (check, index), outcome in zip(alone, outcomes, strict=True):
                ledger.put(check, index, outcome)
                callbacks.finished(1)

    def _settle(self, checks: Sequence[Check], ledger: _Ledger, callbacks: Callbacks) -> None:
        """Decides what is open: reduced precision by its own rounding, near ties by decoding again in float64.

        That comes last, so that each dtype is loaded once.
        """
        for check in checks:
            if check.rule == "reduced":
                for index, outcome in zip(check.prompts, settle_by_rounding(ledger.outcomes(check)), strict=True):
                    ledger.put(check, index, outcome)
        ties = [(check, index) for check in checks for index in check.prompts if ledger.get(check, index).undecided]
        if ties:
            callbacks.say(f"decoding {len(ties):,} prompts with near ties again in float64")
        for check, index in ties:
            outcome = self.verifier.settle(check, self.prompts[index], ledger.get(check, index))
            ledger.put(check, index, outcome)

    def _result(self, record: dict[str, Any], outcomes: dict[str, list[Outcome]]) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "environment": environment(),
            "options": record,
            "choice": self.choice,
            **report(outcomes),
            "left_out": list(self.left_out),
            "outcomes": [asdict(outcome) for members in outcomes.values() for outcome in members],
        }

    def _record(self) -> dict[str, Any]:
        """The options with what they resolved to."""
        options = self.verifier.options
        pipeline = self.verifier.pipeline(options.dtype)
        return asdict(options) | {
            "draft": pipeline.draft,
            "vocab": pipeline.vocab,
            "device": str(pipeline.target.device),
        }

    def _inputs(self, record: dict[str, Any]) -> dict[str, Any]:
        """What the outcomes depend on, by the names that a user knows them by."""
        digest = hashlib.sha256()
        for prompt in self.prompts:
            digest.update(json.dumps([prompt.id, prompt.source, prompt.ids]).encode() + b"\n")
        return {
            "version": _VERSION,
            **{f"--{name.replace('_', '-')}": value for name, value in record.items()},
            **pipeline_identity(self.verifier.pipeline(self.verifier.options.dtype)),
            "prompts": digest.hexdigest(),
        }


class _Ledger:
    """The outcomes so far, each in a file of its own if there is a folder."""

    def __init__(self, folder: RunFolder | None) -> None:
        self.folder = folder
        self._outcomes: dict[str, Outcome] = {}
        if folder is not None:
            for path in folder.folder.glob("*-*.json"):
                self._outcomes[path.name] = Outcome.read(read_json(path), file=path)

    def holds(self, check: Check, index: int) -> bool:
        return self._name(check, index) in self._outcomes

    def get(self, check: Check, index: int) -> Outcome:
        return self._outcomes[self._name(check, index)]

    def put(self, check: Check, index: int, outcome: Outcome) -> None:
        name = self._name(check, index)
        self._outcomes[name] = outcome
        if self.folder is not None:
            storage.write_json(self.folder.path(name), asdict(outcome))

    def outcomes(self, check: Check) -> list[Outcome]:
        return [self.get(check, index) for index in check.prompts]

    @staticmethod
    def _name(check: Check, index: int) -> str:
        return f"{check.rule}-{index:06d}.json"
