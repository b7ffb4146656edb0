"""The target's recorded answers: what a draft head is trained on.

One JSON object a line (plain, .gz or .zst): {"id", "prompt_token_ids", "response_token_ids", "finish": "stop" |
"length"}; other keys (conversations, source, temperature) are for people and peers. The ids are trained on as they
were recorded, since decoding and encoding again is not the identity, and no end of turn is added after "length".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frspec_cli.corpus.streams import DECOMPRESSORS, BrokenFile, lines, open_binary, raw_chunks
from frspec_cli.errors import FrspecError

_LONGEST_LINE = 64 << 20
HELD_OUT_EVERY = 32
"""Every 32nd answer is never trained on: validation replays these."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A prompt and the target's answer. ids: int64 [N]; the first `prompt_length` are the prompt's.

    id, source: the record's own, '' where it has none.
    """

    ids: np.ndarray
    prompt_length: int
    finished: bool
    greedy: bool
    id: str = ""
    source: str = ""

    @property
    def response_length(self) -> int:
        """Number of answered tokens."""
        return len(self.ids) - self.prompt_length

    @property
    def queries(self) -> int:
        """Draft positions with something to learn: the first answered token comes from the prefill, not a draft."""
        return self.response_length - 1


def read_answers(path: Path | str, *, vocab_size: int, limit: int | None = None) -> list[Answer]:
    """The answers in `path` with at least two answered tokens, in file order, the first `limit` of them.

    Raises `FrspecError` naming the line where a record is broken, lacks a field, or holds an id past `vocab_size`.
    """
    answers: list[Answer] = []
    for number, line in enumerate(lines_of(Path(path)), start=1):
        if limit is not None and len(answers) >= limit:
            break
        if line.strip():
            answer = _parse(line, where=f"{path}:{number}", vocab_size=vocab_size)
            if answer.queries > 0:
                answers.append(answer)
    if not answers:
        raise FrspecError(f"{path} holds no answers of two tokens or more.")
    return answers


def split(answers: list[Answer], *, every: int = HELD_OUT_EVERY) -> tuple[list[Answer], list[Answer]]:
    """(trained on, held out): of each `every` answers one in their middle is held out, of fewer the middle one."""
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
    """int64 [V]: how often each token was answered."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for answer in answers:
        counts += np.bincount(answer.ids[answer.prompt_length :], minlength=vocab_size)
    return counts


def pad_ids(answers: list[Answer]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and attention mask, int64 [B, T]; T is a multiple of 32, so that few shapes occur.

    Causal attention keeps the padding out of everything that stands before it.
    """
    width = -(-max(len(answer.ids) for answer in answers) // 32) * 32
    ids = torch.zeros(len(answers), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, answer in enumerate(answers):
        ids[row, : len(answer.ids)] = torch.from_numpy(answer.ids)
        mask[row, : len(answer.ids)] = 1
    return ids, mask


def _parse(line: bytes, *, where: str, vocab_size: int) -> Answer:
    try:
        record: dict[str, Any] = json.loads(line)
        prompt, response = record["prompt_token_ids"], record["response_token_ids"]
        ids = np.asarray([*prompt, *response], dtype=np.int64)
        finish = record["finish"]
    except KeyError as error:
        raise FrspecError(f"{where}: the record has no field {error}.", hint="`frspec collect` writes them.") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise FrspecError(f"{where}: this is no record of token ids ({error}).") from None
    if finish not in ("stop", "length"):
        raise FrspecError(f'{where}: finish is {finish!r}, expected "stop" or "length".')
    if not prompt:
        raise FrspecError(f"{where}: prompt_token_ids is empty.")
    if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
        bad = int(ids[(ids < 0) | (ids >= vocab_size)][0])
        raise FrspecError(f"{where}: token id {bad} is outside the target's vocabulary of {vocab_size}.")
    named = {"id": str(record.get("id", "")), "source": str(record.get("source") or "")}
    return Answer(ids, len(prompt), finish == "stop", not record.get("temperature"), **named)


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file, plain, .gz or .zst. Raises `FrspecError` where it is missing or broken."""
    if not path.is_file():
        raise FrspecError(f"there is no file {path}.")
    compression = path.suffix.removeprefix(".") if path.suffix in (".gz", ".zst") else ""
    with open_binary(str(path)) as file:
        chunks = DECOMPRESSORS[compression](raw_chunks(file, None), str(path))
        try:
            for number, line in enumerate(lines(chunks, longest=_LONGEST_LINE), start=1):
                if line is None:
                    raise FrspecError(f"{path}:{number}: the line is longer than {_LONGEST_LINE:,} bytes.")
                yield line
        except BrokenFile as error:
            raise FrspecError(error.message, hint="Get the file again.") from None
