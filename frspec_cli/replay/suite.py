"""What is replayed: recorded answers, or prompts that the target answers first, just as far as a cycle may look."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import StrictBool

from frspec_cli import schema, storage
from frspec_cli.answers.batched_decode import Completion, TokenizedPrompt, decode_batch, make_batches, tokenize
from frspec_cli.answers.prompts import read_prompts
from frspec_cli.answers.records import Answer, fingerprint, read_answers, split
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import ArtifactError, FrspecError, UsageError, option
from frspec_cli.models.target import Target
from frspec_cli.progress import Callbacks
from frspec_cli.replay.options import PROMPT_NEW_TOKENS, ReplayOptions
from frspec_cli.resume import RunFolder
from frspec_cli.subsets.eval_table import holds_answers

_ANSWERED_TOGETHER = 16


@dataclass(frozen=True)
class ReplaySuite:
    """What a file holds to be replayed.

    recorded: whether it holds answers; they are `answers` then, and otherwise `prompts` are still to be answered.
    new_tokens: no cycle begins once an answer has this many tokens; None for no limit.
    failures: {"id", "reason"} of each answer or prompt that cannot be replayed.
    digest: of what is replayed.
    """

    recorded: bool
    answers: tuple[Answer, ...]
    prompts: tuple[TokenizedPrompt, ...]
    new_tokens: int | None
    failures: tuple[dict[str, str], ...]
    digest: str


def check_suite(path: Path, options: ReplayOptions) -> bool:
    """Whether the file holds recorded answers.

    Raises `FrspecError` if there is no such file, `UsageError` if answers are to be held out and it holds prompts.
    """
    if not path.is_file():
        raise FrspecError(f"there is no file {path}.")
    recorded = holds_answers(str(path))
    if options.held_out and not recorded:
        raise UsageError(f"{option('held_out')} is for recorded answers; {path} holds prompts.")
    return recorded


def read_suite(path: Path, target: Target, options: ReplayOptions) -> ReplaySuite:
    """Reads answers or prompts, and sets aside what does not fit into the model's context.

    Raises as `check_suite` does, and `FrspecError` if nothing is left.
    """
    if check_suite(path, options):
        return _recorded(path, target, options)
    return suite_of(tokenize(target, read_prompts(path, limit=options.limit)), target, options)


def answer_suite(
    suite: ReplaySuite,
    target: Target,
    options: ReplayOptions,
    folder: RunFolder,
    callbacks: Callbacks,
    *,
    name: str = "answers",
) -> list[Answer]:
    """The suite's answers in the order of its file. The target answers prompts in batches, each kept in the folder.

    name: of these answers' parts in the folder.

    Which prompts share a batch depends on the suite alone, so a resumed run makes the answers of an undisturbed one.
    Answers of a single token, in which no cycle begins, are left out. Raises `FrspecError` if none is longer.
    """
    if suite.recorded:
        return list(suite.answers)
    plan = make_batches(suite.prompts, _ANSWERED_TOGETHER)
    paths = [folder.path(f"{name}-{number:06d}.json") for number in range(len(plan))]
    callbacks.say(f"answering {len(suite.prompts):,} prompts")
    callbacks.begin(len(suite.prompts))
    answers: dict[int, Answer] = {}
    for members, path in zip(plan, paths, strict=True):
        batch = [suite.prompts[index] for index in members]
        if not path.is_file():
            completions = decode_batch(
                target,
                batch,
                max_new_tokens=_answered_tokens(options),
                sampling=Sampling(),
                ignore_eos=options.ignore_eos,
            )
            storage.write_json(path, [[list(each.ids), each.stopped] for each in completions])
        for index, prompt, (ids, stopped) in zip(members, batch, _completions(path, len(batch)), strict=True):
            answers[index] = _answer(prompt, Completion(tuple(ids), stopped))
        callbacks.finished(len(batch))
    replayable = [answers[index] for index in sorted(answers) if answers[index].queries > 0]
    if not replayable:
        raise FrspecError("the target answers every prompt with a single token: nothing is drafted there.")
    return replayable


@dataclass(frozen=True, eq=False)
class Text:
    """One answer, as far as it is replayed.

    whole: the ids that the target reads; `answer` and `after` are parts of them.
    answer: up to its end of sequence.
    after: what the target wrote past that, as an answer behind it; None if nothing that has a cycle.
    """

    whole: Answer
    answer: Answer
    after: Answer | None = None

    @property
    def after_tokens(self) -> int:
        """Number of tokens after the end of sequence."""
        return self.after.response_length if self.after else 0

    @staticmethod
    def of(answer: Answer, eos_ids: Collection[int], *, most: int | None = None) -> Text:
        """Cuts the answer behind its first end of sequence, and what comes after behind its token number `most`."""
        response = answer.ids[answer.prompt_length :]
        found = np.flatnonzero(np.isin(response, list(eos_ids)))
        if not len(found) or found[0] == len(response) - 1:
            return Text(answer, answer)
        end = answer.prompt_length + int(found[0]) + 1
        ids = answer.ids if most is None else answer.ids[: answer.prompt_length + most]
        finished = answer.finished and len(ids) == len(answer.ids)
        after = replace(answer, ids=ids, prompt_length=end, finished=finished) if len(ids) > end + 1 else None
        return Text(answer, replace(answer, ids=answer.ids[:end], finished=True), after)


def _completions(path: Path, count: int) -> list[tuple[list[int], bool]]:
    """Ids, and whether an end token stopped them, of each answer in a part of the run's folder."""
    hint = f"{option('restart')} starts over."
    kind = list[tuple[list[schema.TokenId], StrictBool]]
    completions = schema.check_type(kind, schema.read_json(path, hint=hint), path, hint=hint)
    if len(completions) != count:
        raise ArtifactError(path, "its content", f"{count} answers", found=f"{len(completions)} answers", hint=hint)
    return completions


def _recorded(path: Path, target: Target, options: ReplayOptions) -> ReplaySuite:
    if options.held_out:
        _, answers = split(read_answers(path, vocab_size=target.rows))
        if not answers:
            raise FrspecError(
                f"{path} holds too few answers: none would be held out.", hint=f"Leave out {option('held_out')}."
            )
        answers = answers[: options.limit]
    else:
        answers = read_answers(path, vocab_size=target.rows, limit=options.limit)
    context = int(target.config.max_position_embeddings)
    fitting = [answer for answer in answers if len(answer.ids) <= context]
    failures = [
        {"id": answer.id, "reason": f"{len(answer.ids)} tokens do not fit into the model's context of {context}."}
        for answer in answers
        if len(answer.ids) > context
    ]
    _check_left(len(fitting), failures)
    return ReplaySuite(True, tuple(fitting), (), options.max_new_tokens, tuple(failures), fingerprint(fitting))


def suite_of(prompts: Sequence[TokenizedPrompt], target: Target, options: ReplayOptions) -> ReplaySuite:
    """The suite of these prompts. Raises `FrspecError` if none fits into the model's context with its answer."""
    context, new_tokens = int(target.config.max_position_embeddings), _answered_tokens(options)
    fitting = [prompt for prompt in prompts if len(prompt.ids) + new_tokens <= context]
    failures = [
        {
            "id": prompt.id,
            "reason": f"{len(prompt.ids)} prompt tokens and {new_tokens} new ones (of which {options.deepest + 1} to look "
            f"ahead) do not fit into the model's context of {context}.",
        }
        for prompt in prompts
        if len(prompt.ids) + new_tokens > context
    ]
    _check_left(len(fitting), failures)
    digest = hashlib.sha256()
    for prompt in fitting:
        digest.update(json.dumps([prompt.id, prompt.source, prompt.ids]).encode() + b"\n")
    limit = options.max_new_tokens or PROMPT_NEW_TOKENS
    return ReplaySuite(False, (), tuple(fitting), limit, tuple(failures), digest.hexdigest())


def _answered_tokens(options: ReplayOptions) -> int:
    """As far as the last cycle may look: the deepest tree behind the last token, and the token after it."""
    return (options.max_new_tokens or PROMPT_NEW_TOKENS) + options.deepest + 1


def _check_left(count: int, failures: Sequence[dict[str, str]]) -> None:
    if not count:
        first = failures[0]
        raise FrspecError(
            f"none of the {len(failures):,} prompts can be replayed, the first ({first['id']}) because {first['reason']}"
        )


def _answer(prompt: TokenizedPrompt, completion: Completion) -> Answer:
    ids = np.asarray([*prompt.ids, *completion.ids], dtype=np.int64)
    return Answer(ids, len(prompt.ids), completion.stopped, True, prompt.id, prompt.source)
