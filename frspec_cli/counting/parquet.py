"""This project's parquet files: Arrow columns, and what they are about as JSON under the key `frspec`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from frspec_cli import storage
from frspec_cli.errors import ArtifactError, FrspecError
from frspec_cli.schema import Schema, check, parse_json, shown

SCHEMA_VERSION = 1
_MOST_ROWS = 1 << 28  # 262,144 tokens in 10 folds of 100 sources
_MOST_BYTES = 1 << 34  # of all columns, unpacked
_FOREIGN = (OSError, pa.ArrowException, ValueError, KeyError, NotImplementedError)
"""What pyarrow raises for broken files; some of it is a plain ValueError."""


_SMALL: dict[str, Any] = {
    "compression_level": 22,
    "use_dictionary": ["source", "fold"],
    "column_encoding": {
        "token_id": "DELTA_BINARY_PACKED",
        "count": "BYTE_STREAM_SPLIT",
        "token": "DELTA_LENGTH_BYTE_ARRAY",
    },
}
"""A table in half of the bytes and twenty times the time: for what is shipped."""


def write_parquet(
    path: Path | str, schema: pa.Schema, arrays: list[pa.Array], metadata: dict[str, Any], *, small: bool = False
) -> None:
    """Writes columns and metadata, whole or not at all; equal contents give equal bytes.

    In the metadata, a byte of a file's name that is not UTF-8 is JSON's escape of a lone surrogate, such as \\udcff.
    """
    text = json.dumps({"schema": SCHEMA_VERSION, **metadata}, sort_keys=True, ensure_ascii=False)
    described = text.encode("utf-8", "backslashreplace")
    table = pa.Table.from_arrays(arrays, schema=schema.with_metadata({"frspec": described}))
    # pyarrow takes only names in UTF-8.
    with storage.atomic_path(path) as temporary, open(temporary, "wb") as file:
        pq.write_table(table, file, compression="zstd", **(_SMALL if small else {}))


def open_parquet(path: Path | str) -> pq.ParquetFile:
    """The open file; use it in a `with` block. (`pq.read_table` would import pandas: a quarter of a second for nothing.)

    Raises `FrspecError` if the file is missing or not a parquet file.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        if head != b"PAR1":
            raise FrspecError(f"{path} is {'not a parquet file' if head else 'empty'}.")
        file = pq.ParquetFile(path)
        _ = file.schema_arrow  # it is built on first use, and may be broken, too
        return file
    except FrspecError:
        raise
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except IsADirectoryError:
        raise FrspecError(f"{path} is a folder, where a parquet file is needed.") from None
    except _FOREIGN as error:
        raise _unreadable(path, error) from None


def read_parquet(
    path: Path | str,
    columns: pa.Schema,
    what: str,
    *,
    metadata: type[Schema],
    make: str,
    only: list[str] | None = None,
) -> tuple[pa.Table, dict[str, Any]]:
    """The columns and the metadata, both as they must be: nothing is read before types and sizes are checked.

    columns: what the file must begin with.
    what: what messages call such a file.
    metadata: the schema of its metadata.
    make: the command that makes one.
    only: the columns to read. Default: all.
    Raises `FrspecError` if the file is missing, broken, something else, or of a later schema.
    """
    with open_parquet(path) as file:
        raw = (file.schema_arrow.metadata or {}).get(b"frspec")
        if raw is None or file.schema_arrow.names[: len(columns)] != columns.names:
            raise FrspecError(f"{path} is a parquet file but not a {what}.", hint=f"Make one with `{make}`.")
        described = _described(raw, path)
        if described.get("kind") == "soft":
            raise FrspecError(
                f"{path} holds soft counts, which this version of frspec no longer reads.", hint=f"Count with `{make}`."
            )
        check(metadata, described, path)
        _check_columns(file, columns, path)
        try:
            table = file.read(only)
            table.validate(full=True)
        except _FOREIGN as error:
            raise _unreadable(path, error) from None
    for name in columns.names if only is None else [name for name in only if name in columns.names]:
        if table[name].null_count:
            raise ArtifactError(
                path, f"the column {name}", "a value in every row", found=f"null in {table[name].null_count}"
            )
    return table, described


def _described(raw: bytes, path: Path | str) -> dict[str, Any]:
    """The metadata less `schema`, which is checked here."""
    described = parse_json(raw, path)
    if re.search(rb"\\u[dD][89a-fA-F]", raw):  # escaped halves of characters may lack their other half
        try:
            json.dumps(described, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ArtifactError(path, "its metadata", "text in Unicode", found="text with half a character") from None
    if not isinstance(described, dict):
        raise ArtifactError(path, "its metadata", "a JSON object", found=shown(described))
    version = described.pop("schema", None)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(path, "schema", f"a version, now {SCHEMA_VERSION}", found=shown(version))
    if version > SCHEMA_VERSION:
        raise FrspecError(f"{path} has schema {version}, newer than this version of frspec reads ({SCHEMA_VERSION}).")
    return described


def _check_columns(file: pq.ParquetFile, columns: pa.Schema, path: Path | str) -> None:
    """Raises `ArtifactError` unless types are those of `columns`, and rows and bytes within what a table can have."""
    for expected in columns:
        kind = file.schema_arrow.field(expected.name).type
        if kind != expected.type and not (_labels(kind) and _labels(expected.type)):
            raise ArtifactError(path, f"the column {expected.name}", f"{expected.type}", found=f"of the type {kind}")
    rows = file.metadata.num_rows
    size = sum(file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups))
    if not 0 <= rows <= _MOST_ROWS or not 0 <= size <= _MOST_BYTES:
        raise ArtifactError(
            path,
            "its size",
            f"at most {_MOST_ROWS:,} rows and {_MOST_BYTES:,} bytes",
            found=f"{rows:,} rows, {size:,} bytes",
        )


def _labels(kind: pa.DataType) -> bool:
    """Whether it is the type of labels; parquet does not keep the size of their indices."""
    return pa.types.is_dictionary(kind) and kind.value_type == pa.string()


def _unreadable(path: Path | str, error: Exception) -> FrspecError:
    lines = str(error).splitlines() or [type(error).__name__]
    return FrspecError(f"{path} cannot be read as parquet: {lines[0].rstrip('.')}.")
