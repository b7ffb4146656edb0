"""The frequency table: how often each token occurred, by source and by fold, in a parquet file that other tools open.

Rows `token_id:int32, source:dictionary, fold:int8, count:int64`, sorted by (token_id, source, fold), counts > 0 only;
with --document-frequency a further column `documents:int64`, the documents that hold the token, and in tables that are
shipped `token:binary` (see `spelling`), so that they serve without the tokenizer.
`fold` is the document's hash mod 10: totals over folds are the exact counts, and folds give held-out coverage and
intervals without reading the text again. The metadata holds no time and no worker count: equal inputs, equal bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from frspec_cli.counting.columns import column, strings, values
from frspec_cli.counting.metadata import TableMetadata
from frspec_cli.counting.parquet import read_parquet, write_parquet
from frspec_cli.counting.spelling import COLUMN as SPELLING
from frspec_cli.counting.spelling import read_spelling, spelling_column
from frspec_cli.errors import ArtifactError, FrspecError
from frspec_cli.tokens.recorded import RecordedTokenizer

FOLDS = 10
_TOKENS_AT_ONCE = 1 << 10
_MOST_COUNTED = 2.0**52  # in all of a batch of rows, so that no sum overflows
_MOST_CELLS = 1 << 31  # 16 GiB; 800 sources of 262,144 tokens
_ROWS_AT_ONCE = 1 << 18  # rows read are scattered while they are in the processor's cache
_SCHEMA = pa.schema(
    [
        ("token_id", pa.int32()),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("fold", pa.int8()),
        ("count", pa.int64()),
    ]
)
_DOCUMENTS = pa.field("documents", pa.int64())
_MAKE = "frspec count-freq SOURCE --tokenizer T --out counts.parquet"


@dataclass(frozen=True)
class FrequencyTable:
    """Counts by token, source and fold.

    counts: source -> int64 [FOLDS, rows], rows = the tokenizer's highest id + 1.
    metadata: what the `frspec` key of the parquet file holds, less `schema`. Every table has `tokenizer` (`reference`,
        `fingerprint`, `size`, `highest_id`, `model_rows` or None, `forced` {id: reason}), `lines`, `documents`, `tokens`,
        `bytes`, `skipped` {reason: n}, `shards`, `encoder`, `options`, `stability` {k: {...}}.
    documents: source -> int64 [FOLDS, rows], documents that hold the token; None unless they were counted.
    tokens: id -> bytes of every counted token; None unless the table spells its tokens.
    """

    counts: Mapping[str, np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)
    documents: Mapping[str, np.ndarray] | None = None
    tokens: Mapping[int, bytes] | None = None

    @property
    def tokenizers(self) -> list[RecordedTokenizer]:
        """The tokenizer that counted and those that give the same counts; [] unless the table spells its tokens."""
        return _recorded(self.metadata, self.tokens)

    @property
    def rows(self) -> int:
        """The tokenizer's highest id + 1."""
        return int(self.metadata["tokenizer"]["highest_id"]) + 1

    @property
    def sources(self) -> list[str]:
        """The labels of the corpus's parts, sorted."""
        return sorted(self.counts)

    def totals(self, *, sources: Collection[str] | None = None, folds: Collection[int] | None = None) -> np.ndarray:
        """int64 [rows]: each token's count over the given sources and folds (default: all).

        Raises `FrspecError` for a source that the table does not have.
        """
        total = np.zeros(self.rows, dtype=np.int64)
        for source in self.sources if sources is None else sources:
            if source not in self.counts:
                known = ", ".join(self.sources) or "none"
                raise FrspecError(f"the table has no source {source!r}; it has: {known}.")
            by_fold = self.counts[source]
            total += by_fold.sum(axis=0) if folds is None else by_fold[sorted(folds)].sum(axis=0)
        return total

    def by_fold(self) -> np.ndarray:
        """int64 [FOLDS, rows]: counts over all sources."""
        return sum_by_fold(self.counts.values(), self.rows)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the tokenizer that counted."""
        return self.metadata["tokenizer"]["fingerprint"]

    def write(self, path: Path | str, *, small: bool = False) -> None:
        """Writes the parquet file, whole or not at all; equal tables give equal bytes. small: in half of the bytes, slowly."""
        sources = self.sources
        cell, count = _counted_cells([self.counts[source] for source in sources], self.rows)
        token, source_and_fold = np.divmod(cell, max(1, len(sources) * FOLDS))
        source, fold = np.divmod(source_and_fold, FOLDS)
        arrays = [
            column(token, pa.int32()),
            pa.DictionaryArray.from_arrays(column(source, pa.int32()), strings(sources)),
            column(fold, pa.int8()),
            column(count, pa.int64()),
        ]
        schema = _SCHEMA
        if self.documents is not None:
            # A token that was counted is in at least one document, so the cells are the same.
            _, documents = _counted_cells([self.documents[source] for source in sources], self.rows)
            arrays.append(column(documents, pa.int64()))
            schema = schema.append(_DOCUMENTS)
        if self.tokens is not None:
            arrays.append(spelling_column(token, self.tokens))
            schema = schema.append(SPELLING)
        write_parquet(path, schema, arrays, self.metadata, small=small)

    @staticmethod
    def read(path: Path | str) -> FrequencyTable:
        """Reads a table.

        Raises `FrspecError` if the file is missing, broken, not a frequency table, or of a later schema.
        """
        table, metadata = read_parquet(path, _SCHEMA, "frequency table", metadata=TableMetadata, make=_MAKE)
        if _DOCUMENTS.name in table.column_names and table.schema.field(_DOCUMENTS.name).type != _DOCUMENTS.type:
            raise ArtifactError(path, "the column documents", "int64", found="of another type")
        rows = int(metadata["tokenizer"]["highest_id"]) + 1
        documents = _dense(table, rows, path, "documents") if _DOCUMENTS.name in table.column_names else None
        return FrequencyTable(_dense(table, rows, path, "count"), metadata, documents, read_spelling(table, path))

    @staticmethod
    def read_tokenizers(path: Path | str) -> list[RecordedTokenizer]:
        """Only the `tokenizers` of a table. Raises `FrspecError` like `read`."""
        only = ["token_id", SPELLING.name]
        table, metadata = read_parquet(path, _SCHEMA, "frequency table", metadata=TableMetadata, make=_MAKE, only=only)
        return _recorded(metadata, read_spelling(table, path))


def _recorded(metadata: Mapping[str, Any], tokens: Mapping[int, bytes] | None) -> list[RecordedTokenizer]:
    if tokens is None:
        return []
    return [RecordedTokenizer(record, tokens) for record in (metadata["tokenizer"], *metadata.get("also", []))]


def sum_by_fold(counts: Iterable[np.ndarray], rows: int) -> np.ndarray:
    """int64 [FOLDS, rows]: the sum of arrays of that shape."""
    total = np.zeros((FOLDS, rows), dtype=np.int64)
    for each in counts:
        total += each
    return total


def _counted_cells(counts: list[np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The cells above zero and their counts, both int64 [n], in the order of the file.

    counts: for each source int64 [FOLDS, rows]. A cell is (token * sources + source) * FOLDS + fold.
    A whole array turned from [sources * FOLDS, rows] to [rows, sources * FOLDS] would miss the processor's cache at every
    step, so a block of tokens is turned at a time.
    """
    width = len(counts) * FOLDS  # cells of one token
    cells, cell_counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for first_token in range(0, rows if counts else 0, _TOKENS_AT_ONCE):
        block = np.concatenate([each[:, first_token : first_token + _TOKENS_AT_ONCE] for each in counts])
        in_file_order = block.T.ravel()
        above_zero = np.flatnonzero(in_file_order)
        cells.append(first_token * width + above_zero)
        cell_counts.append(in_file_order[above_zero])
    return np.concatenate(cells), np.concatenate(cell_counts)


def _dense(table: pa.Table, rows: int, path: Path | str, name: str) -> dict[str, np.ndarray]:
    """source -> int64 [FOLDS, rows] from the column `name` (`count` or `documents`)."""
    table = table.unify_dictionaries()
    labels = table["source"].chunk(0).dictionary.to_pylist() if len(table) else []
    if None in labels or len(set(labels)) < len(labels):
        raise ArtifactError(path, "the column source", "labels that differ", found="a dictionary that repeats some")
    if (cells := len(labels) * FOLDS * rows) > _MOST_CELLS:
        raise ArtifactError(path, "its table", f"at most {_MOST_CELLS:,} cells", found=f"one of {cells:,} cells")
    dense = np.zeros((len(labels), FOLDS, rows), dtype=np.int64)
    flat, total = dense.reshape(-1), 0
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        token, fold, count = (values(batch[label]) for label in ("token_id", "fold", name))
        if token.min() < 0 or token.max() >= rows or fold.min() < 0 or fold.max() >= FOLDS:
            raise FrspecError(f"{path} holds a token id or a fold outside its range, so it is damaged.")
        if count.min() < 0 or count.sum(dtype=np.float64) > _MOST_COUNTED:
            wrong = int(count.min() if count.min() < 0 else count.max())
            raise ArtifactError(path, f"the column {name}", "counts of 0 or more that can be added", found=f"{wrong:,}")
        # One flat index for all sources. In what `write` makes, a cell occurs once, so assigning is enough.
        cell = values(batch["source"].indices).astype(np.int64)
        cell *= FOLDS
        cell += fold
        cell *= rows
        cell += token
        flat[cell] = count
        total += int(count.sum())
    if int(flat.sum()) != total:
        raise FrspecError(f"{path} holds a token of one source and fold twice, so it is damaged.")
    return dict(zip(labels, dense, strict=True))
