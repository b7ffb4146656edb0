"""This project's parquet files: Arrow columns, and what they are about as JSON under the key `frspec`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from frspec_cli import storage
from frspec_cli.errors import FrspecError

SCHEMA_VERSION = 1


def write_parquet(path: Path | str, schema: pa.Schema, arrays: list[pa.Array], metadata: dict[str, Any]) -> None:
    """Writes columns and metadata, whole or not at all; equal contents give equal bytes."""
    described = json.dumps({"schema": SCHEMA_VERSION, **metadata}, sort_keys=True, ensure_ascii=False)
    table = pa.Table.from_arrays(arrays, schema=schema.with_metadata({"frspec": described}))
    with storage.atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def open_parquet(path: Path | str) -> pq.ParquetFile:
    """The open file; use it in a `with` block. (`pq.read_table` would import pandas: a quarter of a second for nothing.)

    Raises `FrspecError` if the file is missing or not a parquet file.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        if head != b"PAR1":
            raise FrspecError(f"{path} is {'not a parquet file' if head else 'empty'}.")
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except IsADirectoryError:
        raise FrspecError(f"{path} is a folder, where a parquet file is needed.") from None
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def read_parquet(path: Path | str, names: list[str], what: str, *, make: str) -> tuple[pa.Table, dict[str, Any]]:
    """The columns and the metadata.

    names: the columns that the file must begin with.
    what: what messages call such a file.
    make: the command that makes one.
    Raises `FrspecError` if the file is missing, broken, something else, or of a later schema.
    """
    with open_parquet(path) as file:
        raw = (file.schema_arrow.metadata or {}).get(b"frspec")
        if raw is None or file.schema_arrow.names[: len(names)] != names:
            raise FrspecError(f"{path} is a parquet file but not a {what}.", hint=f"Make one with `{make}`.")
        metadata = json.loads(raw)
        if (schema := metadata.pop("schema")) > SCHEMA_VERSION:
            raise FrspecError(f"{path} has schema {schema}, newer than this frspec reads ({SCHEMA_VERSION}).")
        try:
            return file.read(), metadata
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from None


def _unreadable(path: Path | str, error: Exception) -> FrspecError:
    reason = str(error).splitlines()[0].rstrip(".")
    return FrspecError(f"{path} cannot be read as parquet: {reason}.")
