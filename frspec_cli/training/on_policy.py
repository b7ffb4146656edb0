"""Checks that answers are of the target's tokenizer, and the target's own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from frspec_cli.answers.records import Answer
from frspec_cli.corpus.conversations import read_answer_records
from frspec_cli.decoding.text import decode
from frspec_cli.errors import FrspecError, option
from frspec_cli.models.target import Target
from frspec_cli.training.features import FeatureSource

_CHECKED_ANSWERS = 8
_OWN_SHARE = 0.9  # rounding alone (another batch, another kernel) changes a few per cent of the choices in bfloat16


def check_tokenizer(path: Path, target: Target) -> None:
    """Raises `FrspecError` if the ids of the first records, decoded by the target's tokenizer, give none of their texts."""
    compared = equal = 0
    for _, record in islice(read_answer_records(path), _CHECKED_ANSWERS):
        if record.text:
            compared += 1
            equal += decode(target.processor, record.response_ids.tolist()).strip() == record.text.strip()
    if compared and not equal:
        raise FrspecError(
            f"{path} was made with another tokenizer than that of {target.name}: its token ids do not spell its texts.",
            hint=f"Give the {option('model')} that answered, or let this one answer: frspec collect.",
        )


def check_on_policy(answers: Sequence[Answer], features: FeatureSource) -> str | None:
    """A warning if the greedy answers are not the target's own choices, which a draft head should learn; else None."""
    greedy = [index for index, answer in enumerate(answers) if answer.greedy][:_CHECKED_ANSWERS]
    equal = total = 0
    for index, found in zip(greedy, features.take(greedy), strict=True):
        answer = answers[index]
        choices = found.teacher_ids[:, 0].cpu().numpy()
        equal += int((choices == answer.ids[answer.prompt_length + 1 :]).sum())
        total += answer.queries
    if not total or equal >= _OWN_SHARE * total:
        return None
    return (
        f"only {equal / total:.0%} of the answered tokens are the target's own choice, so these are not its answers: the "
        "head learns the target's choices on texts that it would not write. Let the target answer: frspec collect."
    )
