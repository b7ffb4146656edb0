"""From what a user names to a doctor's findings: loads target, head and subset, and lets the target answer the prompts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frspec_cli import storage
from frspec_cli.answers.batched_decode import tokenize
from frspec_cli.answers.prompts import Prompt, read_prompts
from frspec_cli.answers.records import Answer
from frspec_cli.decoding.pipeline import Pipeline, load_pipeline
from frspec_cli.decoding.pipeline_identity import pipeline_identity
from frspec_cli.doctor.diagnosis import diagnose
from frspec_cli.doctor.options import DoctorOptions
from frspec_cli.doctor.prompting import generation_prompt, other_ways
from frspec_cli.doctor.replays import DraftSetup
from frspec_cli.environment import environment
from frspec_cli.errors import FrspecError, as_flags, option
from frspec_cli.heads.checkpoint import load_head
from frspec_cli.heads.files import locate_head, read_config
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.target import Target
from frspec_cli.progress import Callbacks
from frspec_cli.replay.groups import with_languages
from frspec_cli.replay.suite import ReplaySuite, Text, answer_suite, check_suite, read_suite, suite_of
from frspec_cli.resume import INPUTS, RunFolder, check_finished, run_folder
from frspec_cli.tokens.tokenizer import load_tokenizer
from frspec_cli.training.card import answers_on_card

SCHEMA = 1
_VERSION = 1

PROMPTS = (
    ("chat", "Give me three tips for a first visit to a large museum."),
    ("chat", "How do I thank a neighbour who watered my plants?"),
    ("writing", "Write the opening of a story about a lighthouse in winter."),
    ("writing", "Describe a rainy market square in four sentences."),
    ("code", "Write a Python function that returns the second largest number of a list."),
    ("code", "Show a SQL query that counts the orders of each customer."),
    ("maths", "A train covers 180 km in two and a half hours. What is its average speed? Explain each step."),
    ("maths", "What is 15 % of 240, and how do you find it?"),
    ("facts", "Why do leaves change their colour in autumn?"),
    ("facts", "What does a catalytic converter do in a car?"),
    ("summary", "Summarise in one sentence: bees fly from flower to flower, collect nectar, and carry pollen with them, so "
     "that many plants can bear fruit."),
    ("translation", "Translate into French: the library opens at nine and closes at six."),
)  # fmt: skip


def examine(
    target: Target,
    options: DoctorOptions,
    *,
    draft: str | None = None,
    vocab: str | None = None,
    suite: Path | None = None,
    norm_output: bool | None = None,
    out: Path | None = None,
    restart: bool = False,
    force: bool = True,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """`diagnose` of the head over recorded answers, or over prompts (by default a dozen of several kinds) once answered.

    Prompts of a chat model are put to it in other ways too (`prompts` in the result). With `out` the result is written
    there, and a killed run resumes.
    Raises `FrspecError` for what cannot be loaded, for a drafter that is not an EAGLE head, and if no answer has a cycle.
    """
    callbacks = callbacks or Callbacks()
    prompts = _prompts(suite, options)
    pipeline = load_pipeline(target, draft=draft, vocab=vocab, norm_output=norm_output, warn=callbacks.warn)
    setup, head = draft_setup(pipeline, norm_output=norm_output)
    asked = options.replay
    given = (
        read_suite(suite, target, asked) if suite is not None else suite_of(tokenize(target, prompts), target, asked)
    )
    for failure in given.failures:
        callbacks.warn(f"prompt {failure['id']} is left out: {failure['reason']}")
    record = _record(pipeline, options, given)
    inputs = {"version": _VERSION, **{f"--{name.replace('_', '-')}": value for name, value in record.items()}}
    inputs |= {"model, head and subset": pipeline_identity(pipeline), "prompts or answers": given.digest}
    if out is not None:
        check_finished(out, inputs, restart=restart, force=force)
    with _opened(out) as folder:
        if folder.resume(inputs, restart=restart):
            callbacks.say("resuming a stopped run")
        answers = _cut(answer_suite(given, target, asked, folder, callbacks), target)
        result = {"schema": SCHEMA, "kind": "doctor", "environment": environment(), "options": record} | diagnose(
            setup,
            answers,
            options,
            folder,
            other_prompts=_answered_otherwise(prompts, target, options, folder, callbacks),
            checks=_checks(setup, head, given, suite, options),
            new_tokens=given.new_tokens,
            callbacks=callbacks,
        )
        result[INPUTS] = inputs
        if out is not None:
            storage.write_json(out, json.loads(as_flags(json.dumps(result))))
        folder.remove()
    return result


def draft_setup(pipeline: Pipeline, *, norm_output: bool | None = None) -> tuple[DraftSetup, Path]:
    """The pipeline's head as it is looked into, and its folder. Raises `FrspecError` if it is not an EAGLE head."""
    target = pipeline.target
    if pipeline.head is None or pipeline.draft is None:
        raise FrspecError("there is no draft head to look into.", hint=f"Name one with {option('draft')}.")
    if not isinstance(pipeline.head, EagleHead):
        raise FrspecError(f"{pipeline.draft} is not an EAGLE head: only those can be read in several ways.")
    folder, exact = locate_head(pipeline.draft), None
    if target.dtype.itemsize < 4:
        import torch

        exact = load_head(
            folder,
            target_config=target.config,
            embedding_weight=target.embedding.cpu(),
            dtype=torch.float32,
            norm_output=norm_output,
        )
    return DraftSetup(target, pipeline.head, target.lm_head, pipeline.subset, read_config(folder), exact), folder


@contextmanager
def _opened(out: Path | None) -> Iterator[RunFolder]:
    """The run's folder: beside the output, or for as long as the run takes."""
    if out is not None:
        with RunFolder.opened(run_folder(out)) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory() as temporary, RunFolder.opened(Path(temporary) / "doctor") as folder:
        yield folder


def _prompts(suite: Path | None, options: DoctorOptions) -> list[Prompt]:
    """What is to be answered; [] if answers are recorded already."""
    if suite is not None:
        return [] if check_suite(suite, options.replay) else read_prompts(suite, limit=options.limit)
    prompts = [Prompt(text, str(number), category) for number, (category, text) in enumerate(PROMPTS, start=1)]
    return prompts[: options.limit]


def _answered_otherwise(
    prompts: Sequence[Prompt], target: Target, options: DoctorOptions, folder: RunFolder, callbacks: Callbacks
) -> dict[str, list[Answer]]:
    """Answers to the same prompts in other ways (see `other_ways`); those that cannot be replayed are left out."""
    found = {}
    for number, (way, put) in enumerate(other_ways(target, prompts).items()):
        given = suite_of(put, target, options.replay)
        callbacks.say(f"the same prompts {way}:")
        answers = answer_suite(given, target, options.replay, folder, callbacks, name=f"answers-otherwise-{number}")
        found[way] = _cut(answers, target)
    return found


def _cut(answers: Sequence[Answer], target: Target) -> list[Answer]:
    """The answers up to their end of sequence, each with its language. Raises `FrspecError` if none has a cycle."""
    cut = [Text.of(answer, target.eos_ids).answer for answer in answers]
    cut = [answer for answer in cut if answer.queries > 0]
    if not cut:
        raise FrspecError("no answer is long enough to draft in.", hint=f"Give others with {option('answers')}.")
    return with_languages(cut, load_tokenizer(str(target.folder)))


def _checks(
    setup: DraftSetup, head: Path, given: ReplaySuite, suite: Path | None, options: DoctorOptions
) -> dict[str, Any]:
    """What the files show of the tokenizer, of how prompts were put, and of what was trained on; None where nothing."""
    target, recorded = setup.target, (setup.recorded or {}).get("tokenizer_fingerprint")
    trained = suite is not None and given.recorded and not options.held_out and suite.name in answers_on_card(head)
    return {
        "tokenizer": recorded == load_tokenizer(str(target.folder)).fingerprint if isinstance(recorded, str) else None,
        "generation_prompt": generation_prompt(target, given.answers) if given.recorded else None,
        "trained_on": suite.name if suite is not None and trained else None,
    }


def _record(pipeline: Pipeline, options: DoctorOptions, given: ReplaySuite) -> dict[str, Any]:
    """What a result says about how it was made."""
    target, tree = pipeline.target, options.tree
    return {
        "model": target.name,
        "draft": pipeline.draft,
        "vocab": pipeline.vocab,
        "tree": [tree.depth, tree.beam, tree.nodes],
        "limit": options.limit,
        "max_new_tokens": given.new_tokens,
        "held_out": options.held_out,
        "seed": options.seed,
        "dtype": str(target.dtype).removeprefix("torch."),
        "device": str(target.device),
    }
