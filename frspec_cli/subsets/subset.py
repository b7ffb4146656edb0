"""The vocabulary subset: the k token ids that the draft may propose, in rank order, in a parquet file.

Columns `rank:int32, token_id:int32, token:binary, count:int64, reason:dictionary (forced | budget | frequency)`. Forced
ids come first (by -count, id), then the others by (-count, id): for every k not below the number forced, the first k
rows are what `build-vocab` gives for that k, so one file serves all sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from frspec_cli import storage
from frspec_cli.counting.columns import binaries, column, numbers, strings, values
from frspec_cli.counting.parquet import read_parquet, write_parquet
from frspec_cli.errors import ArtifactError, FrspecError, option
from frspec_cli.subsets.metadata import SubsetMetadata

REASONS = ("forced", "budget", "frequency")
_SCHEMA = pa.schema(
    [
        ("rank", pa.int32()),
        ("token_id", pa.int32()),
        ("token", pa.binary()),
        ("count", pa.int64()),
        ("reason", pa.dictionary(pa.int8(), pa.string())),
    ]
)


@dataclass(frozen=True)
class VocabularySubset:
    """Token ids in rank order.

    token_ids: int32 [k], unique.
    tokens: the bytes of each.
    counts: int64 [k].
    reasons: int8 [k], indices of REASONS.
    metadata: what the `frspec` key of the parquet file holds, less `schema`. Every subset has `tokenizer` (as in a frequency
        table), `vocabulary_rows`, `k`, `origin`, `coverage` and `held_out` (or None), `nested`, `padded`, `sha256`.
    """

    token_ids: np.ndarray
    tokens: list[bytes]
    counts: np.ndarray
    reasons: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def k(self) -> int:
        """Number of tokens."""
        return len(self.token_ids)

    @property
    def forced(self) -> int:
        """Number of forced tokens; they come first."""
        return int((self.reasons == REASONS.index("forced")).sum())

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the tokenizer that the ids belong to."""
        return self.metadata["tokenizer"]["fingerprint"]

    def prefix(self, k: int) -> VocabularySubset:
        """The first k rows: the subset that `build-vocab --k` gives for that k.

        Raises `FrspecError` if k is above the file's or below the number forced, or if the file is not nested.
        """
        if k == self.k:
            return self
        if not self.metadata.get("nested", True):
            raise self._not_nested(k)
        if k > self.k:
            raise FrspecError(f"{option('k')} {k} is more than the {self.k} tokens of this subset.")
        if k < max(1, self.forced):
            raise FrspecError(f"{option('k')} {k} is less than the {self.forced} tokens that this subset forces in.")
        ids = self.token_ids[:k]
        # Unseen tokens come last, so cutting takes them first. Shares were measured for the larger k: none are known here.
        padded = max(0, self.metadata.get("padded", 0) - (self.k - k))
        metadata = self.metadata | {
            "k": k,
            "coverage": None,
            "held_out": None,
            "padded": padded,
            "sha256": storage.sha256_ids(ids),
        }
        return VocabularySubset(ids, self.tokens[:k], self.counts[:k], self.reasons[:k], metadata)

    def _not_nested(self, k: int) -> FrspecError:
        if "imported" in self.metadata["origin"]:
            return FrspecError(
                f"this subset was imported from a list by id, so its first {k} rows are not the most frequent ones.",
                hint=f"Import it again with {option('counts')} TABLE, which ranks its ids.",
            )
        how, given = ("script budgets", "script_budget")
        if (self.metadata["origin"].get("recipe") or {}).get("shards", 1) > 1:
            how, given = ("equal slices of the vocabulary", "shards")
        return FrspecError(
            f"this subset was made with {how}, so its first {k} rows are not a subset of their own.",
            hint=f"Build that size: frspec build-vocab COUNTS {option('k')} {k} {option(given)} ... --out PATH",
        )

    def write(self, path: Path | str) -> None:
        """Writes the parquet file, whole or not at all; equal subsets give equal bytes."""
        arrays = [
            column(np.arange(self.k), pa.int32()),
            column(self.token_ids, pa.int32()),
            binaries(self.tokens),
            column(self.counts, pa.int64()),
            pa.DictionaryArray.from_arrays(column(self.reasons, pa.int8()), strings(list(REASONS))),
        ]
        write_parquet(path, _SCHEMA, arrays, self.metadata)

    @staticmethod
    def read(path: Path | str) -> VocabularySubset:
        """Reads a subset. Raises `FrspecError` if the file is missing, broken, damaged, or not a subset."""
        make = "frspec build-vocab counts.parquet --k 32768 --out subset.parquet"
        table, metadata = read_parquet(path, _SCHEMA, "vocabulary subset", metadata=SubsetMetadata, make=make)
        _check_rows(table, metadata, path)
        ids = numbers(table, "token_id")
        if storage.sha256_ids(ids) != metadata["sha256"]:
            raise FrspecError(f"{path} is damaged: its ids do not have the recorded sha256.")
        reasons = _reasons(table["reason"], path)
        return VocabularySubset(ids, table["token"].to_pylist(), numbers(table, "count"), reasons, metadata)


def _check_rows(table: pa.Table, metadata: dict[str, Any], path: Path | str) -> None:
    """Raises `ArtifactError` unless the rows are k different ids of the vocabulary, by rank."""
    k, rows = metadata.get("k", len(table)), metadata["vocabulary_rows"]
    if not 0 < len(table) == k:
        raise ArtifactError(path, "its number of rows", f"{k or 'at least one'}", found=f"{len(table)}")
    ids, ranks, counts = (numbers(table, name) for name in ("token_id", "rank", "count"))
    if (ranks != np.arange(k)).any():
        raise ArtifactError(path, "the column rank", "0, 1, 2 and so on", found="another order")
    if ids.min() < 0 or ids.max() >= rows:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ArtifactError(path, "the column token_id", f"ids from 0 to {rows - 1}", found=f"{wrong} in one row")
    if len(np.unique(ids)) < k:
        repeated = int(np.flatnonzero(np.bincount(ids) > 1)[0])
        raise ArtifactError(path, "the column token_id", "each id once", found=f"{repeated} in more than one row")
    if counts.min() < 0:
        raise ArtifactError(path, "the column count", "counts of 0 or more", found=f"{counts.min()} in one row")


def _reasons(encoded: pa.ChunkedArray, path: Path | str) -> np.ndarray:
    """int8 [k], indices of REASONS, whatever order the file's own dictionary has."""
    chunks = []
    for chunk in encoded.chunks:
        labels = chunk.dictionary.to_pylist()
        if unknown := [label for label in labels if label not in REASONS]:
            raise ArtifactError(path, "the column reason", f"one of {', '.join(REASONS)}", found=repr(unknown[0]))
        own = np.array([REASONS.index(label) for label in labels], dtype=np.int8)
        chunks.append(own[values(chunk.indices)])
    return np.concatenate(chunks)


def show_token(content: bytes) -> str:
    """A token's bytes as a person reads them: quoted text, or hex if they are not whole UTF-8."""
    try:
        return repr(content.decode())
    except UnicodeDecodeError:
        return " ".join(f"<{byte:02X}>" for byte in content)
