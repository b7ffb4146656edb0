"""Whether answers are what they are taken for: of this tokenizer, and this target's own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from frspec_cli.answers.records import Answer
from frspec_cli.corpus.conversations import read_answer_records
from frspec_cli.decoding.text import decode
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import Target
from frspec_cli.training.features import FeatureStore

_LOOKED_AT = 8
_OWN = 0.9  # rounding alone (another batch, another kernel) changes a few per cent of the choices in bfloat16


def check_tokenizer(path: Path, target: Target) -> None:
    """Raises `FrspecError` where the ids of the first records, decoded by the target's tokenizer, give none of their texts."""
    compared = alike = 0
    for _, record in islice(read_answer_records(path), _LOOKED_AT):
        if record.text:
            compared += 1
            alike += decode(target.processor, record.response_ids.tolist()).strip() == record.text.strip()
    if compared and not alike:
        raise FrspecError(
            f"{path} was made with another tokenizer than that of {target.name}: its token ids do not spell its texts.",
            hint="Give the --model that answered, or let this one answer: frspec collect.",
        )


def doubt(answers: Sequence[Answer], features: FeatureStore) -> str | None:
    """A sentence where greedy answers are not what the target would say, which a draft head should learn; else None."""
    greedy = [index for index, answer in enumerate(answers) if answer.greedy][:_LOOKED_AT]
    told = total = 0
    for index in greedy:
        answer = answers[index]
        chosen = features[index].teacher_ids[:, 0].numpy()
        told += int((chosen == answer.ids[answer.prompt_length + 1 :]).sum())
        total += answer.queries
    if not total or told >= _OWN * total:
        return None
    return (
        f"only {told / total:.0%} of the answered tokens are the target's own choice, so these are not its answers: the head "
        "learns what the target says on texts that it would not write. Let the target answer: frspec collect."
    )
