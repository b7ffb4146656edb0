"""How a table's tokens are spelled: a column that is filled in the first row of each token, and null in its others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from frspec_cli.counting.columns import values
from frspec_cli.errors import ArtifactError

COLUMN = pa.field("token", pa.binary())
_LONGEST = 1 << 12  # bytes of one token


def spelling_column(token_ids: np.ndarray, tokens: Mapping[int, bytes]) -> pa.Array:
    """The column beside sorted ids. tokens: id -> bytes of every id among them."""
    first = np.flatnonzero(np.diff(token_ids, prepend=-1))
    column = np.full(len(token_ids), None, dtype=object)
    column[first] = [tokens[index] for index in token_ids[first].tolist()]
    return pa.array(column, type=COLUMN.type)


def read_spelling(table: pa.Table, path: Path | str) -> dict[int, bytes] | None:
    """id -> bytes of every token in a table's rows; None if the table has no such column.

    Raises `ArtifactError` unless each token is spelled once.
    """
    if COLUMN.name not in table.column_names:
        return None
    if table.schema.field(COLUMN.name).type != COLUMN.type:
        raise ArtifactError(path, "the column token", "bytes", found="of another type")
    spelled = table.select(["token_id", COLUMN.name]).filter(table[COLUMN.name].is_valid())
    tokens = dict(zip(_ids(spelled).tolist(), spelled[COLUMN.name].to_pylist(), strict=True))
    if len(tokens) < len(spelled) or len(np.unique(_ids(table))) != len(tokens):
        raise ArtifactError(path, "the column token", "each token's bytes once", found="missing or repeated for some")
    if (longest := max(map(len, tokens.values()), default=0)) > _LONGEST:
        raise ArtifactError(path, "the column token", f"at most {_LONGEST} bytes", found=f"{longest} bytes in one row")
    return tokens


def _ids(table: pa.Table) -> np.ndarray:
    chunks = [values(chunk) for chunk in table["token_id"].chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int32)
