"""Prompts answered by the target, in batches, to be replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from frspec_cli.answers.batched_decode import TokenizedPrompt, decode_batch
from frspec_cli.answers.collect import make_batches
from frspec_cli.answers.prompts import Prompt
from frspec_cli.answers.records import Answer
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.models.target import Target

_TOGETHER = 16


def answer_prompts(
    target: Target,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    ignore_eos: bool,
    done: Callable[[int], None] = lambda prompts: None,
) -> list[Answer]:
    """The target's greedy answers, in the prompts' order; those of a single token, in which no cycle begins, left out.

    ignore_eos: all are `max_new_tokens` long. Prompts of like length share a batch.
    """
    questions = [
        TokenizedPrompt(prompt.id, prompt.text, tuple(target.prompt_ids(prompt.text)), prompt.category)
        for prompt in prompts
    ]
    found: dict[int, Answer] = {}
    for members in make_batches(questions, _TOGETHER):
        asked = [questions[i] for i in members]
        replies = decode_batch(target, asked, max_new_tokens=max_new_tokens, sampling=Sampling(), ignore_eos=ignore_eos)
        for i, question, reply in zip(members, asked, replies, strict=True):
            ids = np.asarray([*question.ids, *reply.ids], dtype=np.int64)
            found[i] = Answer(ids, len(question.ids), reply.stopped, True, question.id, question.source)
        done(len(members))
    return [found[i] for i in sorted(found) if found[i].queries > 0]
