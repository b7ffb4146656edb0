"""Soft counts: the sum over answered positions of the target's probability of each token.

A hard count knows one token of a position; the target's distribution there knows them all, at no further pass. The
distribution is the model's own (temperature 1, no top-p), in float64, its `TOP` likeliest tokens at each position. The sums
are stored as whole millionths in a frequency table whose metadata says `"kind": "soft"`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frspec_cli import storage
from frspec_cli.answers.batched_decode import TokenizedPrompt
from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import target_states
from frspec_cli.counting.count import corpus_record, with_stability
from frspec_cli.counting.table import FOLDS, FrequencyTable
from frspec_cli.counting.worker import fold_of
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import Target
from frspec_cli.tokens.tokenizer import LoadedTokenizer

TOP = 256
SOFT_UNITS = 1_000_000  # sums of probabilities are stored as whole millionths
_HELD = 4 << 20  # probabilities held back before they are summed
_LOGIT_ROWS = 128  # rows of full-vocabulary logits held at once
_NO_SOURCE = "answers"


class SoftCounts:
    """The sums over some questions' answers, by source and by the fold of the question's text."""

    def __init__(self, questions: Sequence[TokenizedPrompt]) -> None:
        self.sources = sorted({question.source or _NO_SOURCE for question in questions})
        place = {source: index for index, source in enumerate(self.sources)}
        keys = [place[q.source or _NO_SOURCE] * FOLDS + fold_of(q.text.encode()) for q in questions]
        self.keys = np.array(keys, dtype=np.int64)
        self.cells: np.ndarray = np.zeros(0, dtype=np.int64)
        self.sums: np.ndarray = np.zeros(0)
        self._held: list[tuple[np.ndarray, np.ndarray]] = []

    def see(self, logits: torch.Tensor, rows: list[int]) -> None:
        """One step: logits [B, V]; rows: the question of each row, -1 where it is answered already."""
        live = [place for place, row in enumerate(rows) if row >= 0]
        scores = logits[live].double()
        best = scores.topk(min(TOP, scores.shape[-1]))
        mass = (best.values - scores.logsumexp(-1, keepdim=True)).exp().cpu().numpy()
        # A cell is (key, token) as one number.
        keys = self.keys[[rows[place] for place in live]]
        self._held.append(((keys[:, None] << 32 | best.indices.cpu().numpy()).reshape(-1), mass.reshape(-1)))
        if sum(len(cells) for cells, _ in self._held) > _HELD:
            self._sum()

    def _sum(self) -> None:
        cells = np.concatenate([self.cells, *(cells for cells, _ in self._held)])
        mass = np.concatenate([self.sums, *(mass for _, mass in self._held)])
        self.cells, inverse = np.unique(cells, return_inverse=True)
        self.sums = np.bincount(inverse, weights=mass, minlength=len(self.cells)).astype(np.float64)
        self._held = []

    def write(self, path: Path) -> None:
        """Lands the sums, whole or not at all."""
        self._sum()
        file = io.BytesIO()
        np.savez(file, sources=np.array(self.sources), cells=self.cells, sums=self.sums)
        storage.write_bytes(path, file.getvalue())


def sum_over(target: Target, answers: Sequence[Answer]) -> SoftCounts:
    """The sums over recorded answers, one pass of the target over each."""
    soft = SoftCounts([TokenizedPrompt(answer.id, answer.id, (), answer.source) for answer in answers])
    for i, states in target_states(target.model, answers, layers=()):
        with torch.no_grad():
            for chunk in states.last[answers[i].prompt_length - 1 :].split(_LOGIT_ROWS):
                soft.see(target.lm_head(chunk.contiguous()), [i] * len(chunk))
    return soft


def soft_table(
    parts: Iterable[Path], tokenizer: LoadedTokenizer, *, shard: dict[str, Any], options: dict[str, Any], model: str
) -> FrequencyTable:
    """The batches' sums as a table. shard: what was answered, as a table's metadata names a shard. model: its identity.

    What the model gives to ids that the tokenizer lacks (rows that only pad the matrix) is left out.
    """
    rows = tokenizer.highest_id + 1
    total: dict[str, np.ndarray] = {}
    for path in parts:
        with np.load(path) as part:
            sources, cells, sums = part["sources"].tolist(), part["cells"], part["sums"]
        keys, tokens = cells >> 32, cells & 0xFFFFFFFF
        for index, source in enumerate(sources):
            mine = (keys // FOLDS == index) & (tokens < rows)
            where = total.setdefault(source, np.zeros((FOLDS, rows)))
            where[keys[mine] % FOLDS, tokens[mine]] += sums[mine]
    counts = {source: np.rint(mass * SOFT_UNITS).astype(np.int64) for source, mass in total.items()}
    metadata = {
        "kind": "soft",
        "tokenizer": tokenizer.record(),
        **corpus_record([shard]),
        "encoder": {"name": "target", "version": model},
        "options": {"top": TOP, **options},
    }
    return with_stability(FrequencyTable(counts, metadata))


def answered(prompts: Path, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answers as a table's metadata names a shard: tokens are the positions that were summed over."""
    try:
        size, digest = prompts.stat().st_size, storage.sha256_file(prompts)
    except OSError as error:
        raise FrspecError(f"{prompts} cannot be read: {error.strerror or error}.") from None
    return {
        "path": prompts.name,
        "format": "answers",
        "size": size,
        "sha256": digest,
        "lines": len(records),
        "documents": len(records),
        "tokens": sum(len(record["response_token_ids"]) for record in records),
        "bytes": sum(len(record["conversations"][1]["content"].encode()) for record in records),
        "skipped": {},
    }
