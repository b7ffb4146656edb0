"""From what a user names to a doctor's findings: loads target, head and subset, and lets the target answer the prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from frspec_cli.answers.batched_decode import TokenizedPrompt, decode_batch, make_batches
from frspec_cli.answers.prompts import Prompt, prompt_ids, read_prompts
from frspec_cli.answers.records import Answer, read_answers
from frspec_cli.decoding.pipeline import Pipeline, load_pipeline
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import FrspecError, option
from frspec_cli.heads.files import locate_head, read_config
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.target import Target
from frspec_cli.progress import Callbacks
from frspec_cli.replay.doctor import Patient, advice, diagnose, without_template
from frspec_cli.replay.groups import with_languages
from frspec_cli.replay.options import DoctorOptions, ReplayOptions
from frspec_cli.replay.suite import Text, check_suite
from frspec_cli.tokens.tokenizer import load_tokenizer

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
_TOGETHER = 16


def examine(
    target: Target,
    options: DoctorOptions,
    *,
    draft: str | None = None,
    vocab: str | None = None,
    suite: Path | None = None,
    norm_output: bool | None = None,
    warn: Callable[[str], None] = lambda text: None,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """`diagnose` of the head over recorded answers, or over prompts (by default a dozen of several kinds) once answered.

    Prompts of a chat model are answered without its template too (`template` in the result).
    Raises `FrspecError` for what cannot be loaded, and for a drafter that is not an EAGLE head.
    """
    callbacks = callbacks or Callbacks()
    recorded = suite is not None and check_suite(suite, ReplayOptions())
    pipeline = load_pipeline(target, draft=draft, vocab=vocab, norm_output=norm_output, warn=warn)
    patient = _patient(pipeline, target)
    if recorded:
        assert suite is not None
        answers, raw = read_answers(suite, vocab_size=target.rows, limit=options.limit), []
    else:
        prompts = _prompts(suite, options)
        callbacks.say(f"answering {len(prompts)} prompts")
        answers = _answered(target, prompts, options)
        plain = [prompt for prompt in prompts if not prompt.messages]
        raw = _answered(target, plain, options, raw=True) if target.is_chat and plain else []
    patient = replace(patient, answers=_cut(answers, target))
    if not patient.answers:
        raise FrspecError("no answer is long enough to draft in.", hint=f"Give others with {option('answers')}.")
    result = diagnose(patient, options, callbacks)
    rest = _cut(raw, target) if raw else []
    result["template"] = without_template(patient, rest, options) if rest else None
    return result | {"next": advice(result)}


def _patient(pipeline: Pipeline, target: Target) -> Patient:
    if pipeline.head is None or pipeline.draft is None:
        raise FrspecError("there is no draft head to look into.", hint=f"Name one with {option('draft')}.")
    if not isinstance(pipeline.head, EagleHead):
        raise FrspecError(f"{pipeline.draft} is not an EAGLE head: only those can be read in several ways.")
    recorded = read_config(locate_head(pipeline.draft))
    return Patient(target, pipeline.head, target.lm_head, pipeline.subset, (), recorded)


def _prompts(suite: Path | None, options: DoctorOptions) -> list[Prompt]:
    if suite is not None:
        return read_prompts(suite, limit=options.limit)
    prompts = [Prompt(text, str(number), category) for number, (category, text) in enumerate(PROMPTS, start=1)]
    return prompts[: options.limit]


def _answered(target: Target, prompts: Sequence[Prompt], options: DoctorOptions, *, raw: bool = False) -> list[Answer]:
    """The target's greedy answers, as far as the deepest tree looks."""
    count = options.max_new_tokens + options.tree.depth + 1
    tokenized = [
        TokenizedPrompt(each.id, each.text, tuple(prompt_ids(target, each, raw=raw)), each.category) for each in prompts
    ]
    context = int(target.config.max_position_embeddings)
    tokenized = [each for each in tokenized if len(each.ids) + count <= context]
    answers: dict[int, Answer] = {}
    for members in make_batches(tokenized, _TOGETHER):
        batch = [tokenized[index] for index in members]
        completions = decode_batch(target, batch, max_new_tokens=count, sampling=Sampling())
        for index, prompt, completion in zip(members, batch, completions, strict=True):
            ids = np.asarray([*prompt.ids, *completion.ids], dtype=np.int64)
            answers[index] = Answer(ids, len(prompt.ids), completion.stopped, True, prompt.id, prompt.source)
    return [answers[index] for index in sorted(answers)]


def _cut(answers: Sequence[Answer], target: Target) -> list[Answer]:
    """The answers up to their end of sequence, each with its language; those without a cycle are left out."""
    cut = [Text.of(answer, target.eos_ids).answer for answer in answers]
    cut = [answer for answer in cut if answer.queries > 0]
    return with_languages(cut, load_tokenizer(str(target.folder))) if cut else []
