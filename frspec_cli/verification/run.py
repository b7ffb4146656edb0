"""A verification as a run: prompts chosen fairly, outcomes kept as they come, one result file at the end.

Each prompt's outcome lands whole in `OUT.ledger/`, so a run that was killed goes on with the next prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from frspec_cli import storage
from frspec_cli.answers.prompts import Prompt
from frspec_cli.answers.tasks import stratified_sample, tasks
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.environment import environment
from frspec_cli.errors import FrspecError
from frspec_cli.models.identity import weights_identity
from frspec_cli.models.target import Target
from frspec_cli.resume import RunFolder, run_folder
from frspec_cli.verification.report import Outcome, report
from frspec_cli.verification.rules import Check, Load, Plan, TokenizedPrompt, Verifier, checks

SCHEMA = 1
_VERSION = 1


@dataclass(frozen=True)
class Listener:
    """Who is told what: say a sentence, begin(prompts to run over all checks), done() after each."""

    say: Callable[[str], None] = lambda text: None
    begin: Callable[[int], None] = lambda count: None
    done: Callable[[], None] = lambda: None


def select_prompts(
    target: Target, prompts: Sequence[Prompt], *, max_new_tokens: int, limit: int | None = None
) -> tuple[list[TokenizedPrompt], list[str]]:
    """The questions, and the ids of prompts left out since they and `max_new_tokens` pass the model's context.

    limit: only so many of those that fit, spread evenly over the tasks. A prompt is never cut: a chat's end would go,
    and the text would be another one. Raises `FrspecError` where none fits.
    """
    room = int(target.config.max_position_embeddings) - max_new_tokens
    labels = tasks([prompt.category for prompt in prompts])
    made = [
        TokenizedPrompt(prompt.id, tuple(target.prompt_ids(prompt.text)), label)
        for prompt, label in zip(prompts, labels, strict=True)
    ]
    fitting = [question for question in made if len(question.ids) <= room]
    if not fitting:
        raise FrspecError(
            f"no prompt fits with {max_new_tokens} new tokens into the model's context of {room + max_new_tokens}.",
            hint="Lower --max-new-tokens or shorten the prompts.",
        )
    left_out = [question.id for question in made if len(question.ids) > room]
    chosen = stratified_sample([question.task for question in fitting], len(fitting) if limit is None else limit)
    return [fitting[index] for index in chosen], left_out


@dataclass(frozen=True)
class Verification:
    """One run. dtype: what is verified. options: what the user chose, by the names of the command line, for the record."""

    load: Load
    dtype: str
    questions: list[TokenizedPrompt]
    plan: Plan
    options: dict[str, Any]
    left_out: tuple[str, ...] = ()

    def run(self, *, out: Path | None, restart: bool = False, listener: Listener | None = None) -> dict[str, Any]:
        """Runs what is missing and returns the result; with `out` it is written there, and a killed run goes on.

        Raises `FrspecError` where a stopped run was begun with other options (naming the first), or another is at it.
        """
        listener = listener or Listener()
        planned = checks(self.dtype, self.questions, self.plan)
        if not planned:
            raise FrspecError("no check takes a prompt.", hint="Raise --rescored, --stepwise or --sampled.")
        with nullcontext() if out is None else RunFolder.opened(run_folder(out)) as folder:
            if folder is not None:
                folder.resume(self._inputs(), restart=restart)
            found = self._outcomes(planned, folder, listener)
            result = self._result(found)
            if out is not None and folder is not None:
                storage.write_json(out, result)
                folder.remove()
        return result

    def _outcomes(self, planned: list[Check], folder: RunFolder | None, listener: Listener) -> dict[str, list[Outcome]]:
        known: dict[str, Outcome] = {}
        if folder is not None:
            known = {path.name: Outcome.read(storage.read_json(path)) for path in folder.folder.glob("*-*.json")}
        total = sum(len(check.questions) for check in planned)
        if known:
            listener.say(f"going on: {len(known):,} of {total:,} outcomes are there")
        listener.begin(total - len(known))
        verifier = Verifier(self.load, self.plan)
        found: dict[str, list[Outcome]] = {}
        for check in planned:
            outcomes = found.setdefault(check.name, [])
            for number in check.questions:
                name = f"{check.rule}-{number:06d}.json"
                if name in known:
                    outcomes.append(known[name])
                    continue
                outcomes.append(verifier.outcome(check, self.questions[number]))
                if folder is not None:
                    storage.write_json(folder.path(name), asdict(outcomes[-1]))
                listener.done()
        return found

    def _result(self, found: dict[str, list[Outcome]]) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "environment": environment(),
            "options": self.options,
            **report(found),
            "left_out": list(self.left_out),
            "outcomes": [asdict(outcome) for outcomes in found.values() for outcome in outcomes],
        }

    def _inputs(self) -> dict[str, Any]:
        """What the outcomes depend on, by the names that a user knows them by."""
        parts = self.load(self.dtype)
        asked = hashlib.sha256()
        for question in self.questions:
            asked.update(json.dumps([question.id, question.task, question.ids]).encode() + b"\n")
        return {
            "version": _VERSION,
            **{f"--{name.replace('_', '-')}": value for name, value in self.options.items()},
            "model's weights": weights_identity(parts.target),
            "draft head": _head_identity(parts),
            "subset": None if parts.subset is None else storage.sha256_ids(parts.subset.token_ids),
            "prompts": asked.hexdigest(),
        }


def _head_identity(parts: Pipeline) -> str | None:
    """24 hex digits over some values of every tensor of the head; None without one."""
    if parts.head is None:
        return None
    found = hashlib.sha256()
    with torch.inference_mode():
        for name, tensor in sorted(parts.head.state_dict().items()):
            some = tensor.flatten()[:: max(1, tensor.numel() // 4096)]
            found.update(name.encode() + some.double().cpu().numpy().tobytes())
    return found.hexdigest()[:24]
