"""The target's recorded answers: what a draft head is trained on.

One JSON object a line (plain, .gz or .zst): {"id", "prompt_token_ids", "response_token_ids", "finish": "stop" |
"length"}; other keys (conversations, source, temperature) are for people and other tools. The ids are trained on as
they were recorded, since decoding and encoding again is not the identity, and no end of turn is added after "length".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from frspec_cli.corpus.conversations import RecordedAnswer, read_answer_records
from frspec_cli.corpus.jsonl import at
from frspec_cli.errors import FrspecError

HELD_OUT_EVERY = 32
"""Every 32nd answer is never trained on: validation replays these."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A prompt and the target's answer.

    ids: int64 [N]; the first `prompt_length` are the prompt's.
    finished: whether the target ended the answer itself.
    greedy: whether it was decoded without sampling.
    id: the record's own, else its line number.
    source: the record's own, "" if it has none.
    language: the record's own, "" if it has none.
    """

    ids: np.ndarray
    prompt_length: int
    finished: bool
    greedy: bool
    id: str = ""
    source: str = ""
    language: str = ""

    @property
    def response_length(self) -> int:
        """Number of answered tokens."""
        return len(self.ids) - self.prompt_length

    @property
    def queries(self) -> int:
        """Draft positions with something to learn: the first answered token comes from the prefill, not a draft."""
        return self.response_length - 1


def read_answers(path: Path | str, *, vocab_size: int, limit: int | None = None) -> list[Answer]:
    """The answers in `path` with at least two answered tokens, in file order; with `limit`, the first N of them.

    Raises `FrspecError`, naming the line, if a record is broken, lacks a field, or holds an id past `vocab_size`.
    """
    answers: list[Answer] = []
    for number, record in read_answer_records(path):
        answer = _answer(record, number, where=at(path, number), vocab_size=vocab_size)
        if answer.queries > 0:
            answers.append(answer)
        if limit is not None and len(answers) >= limit:
            break
    if not answers:
        raise FrspecError(f"{path} holds no answers of two tokens or more.")
    return answers


def split(answers: list[Answer], *, every: int = HELD_OUT_EVERY) -> tuple[list[Answer], list[Answer]]:
    """(training, held out) answers: of each `every` answers the one in their middle is held out, of fewer the middle one."""
    first = every // 2 if len(answers) > every // 2 else len(answers) // 2
    held_out = answers[first::every] if len(answers) > 1 else []
    return [answer for i, answer in enumerate(answers) if not held_out or i % every != first], held_out


def fingerprint(answers: list[Answer]) -> str:
    """Hex sha256 over ids, prompt lengths and finishes, in order."""
    digest = hashlib.sha256()
    for answer in answers:
        digest.update(f"{len(answer.ids)} {answer.prompt_length} {answer.finished}\n".encode())
        digest.update(answer.ids.astype("<i8").tobytes())
    return digest.hexdigest()


def token_counts(answers: list[Answer], *, vocab_size: int) -> np.ndarray:
    """int64 [V]: how often each token occurs in the answers."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for answer in answers:
        counts += np.bincount(answer.ids[answer.prompt_length :], minlength=vocab_size)
    return counts


def pad_ids(answers: list[Answer]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and attention mask, int64 [B, T]; T is a multiple of 32, so that few shapes occur.

    Causal attention keeps the padding out of everything before it.
    """
    width = -(-max(len(answer.ids) for answer in answers) // 32) * 32
    ids = torch.zeros(len(answers), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, answer in enumerate(answers):
        ids[row, : len(answer.ids)] = torch.from_numpy(answer.ids)
        mask[row, : len(answer.ids)] = 1
    return ids, mask


def _answer(record: RecordedAnswer, number: int, *, where: str, vocab_size: int) -> Answer:
    if not len(record.prompt_ids):
        raise FrspecError(f"{where}: prompt_token_ids is empty.")
    ids = np.concatenate([record.prompt_ids, record.response_ids]).astype(np.int64)
    if ids.max() >= vocab_size:
        bad = int(ids[ids >= vocab_size][0])
        raise FrspecError(
            f"{where}: token id {bad:,} is outside the target's vocabulary of {vocab_size:,}.",
            hint="These answers were recorded from another model: name that one.",
        )
    return Answer(
        ids,
        len(record.prompt_ids),
        record.finished,
        record.greedy,
        record.id or str(number),
        record.source,
        record.language,
    )
