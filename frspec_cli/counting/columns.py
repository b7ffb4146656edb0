"""Arrow columns to numpy and back without pandas, which pyarrow's own ways import: a quarter of a second for nothing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def column(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """An Arrow array of numbers."""
    data = np.ascontiguousarray(values, dtype=kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)])


def strings(values: list[str]) -> pa.StringArray:
    """An Arrow array of strings."""
    return binaries([value.encode() for value in values], pa.string())


def binaries(values: list[bytes], kind: pa.DataType | None = None) -> pa.Array:
    """An Arrow array of byte strings."""
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(kind or pa.binary(), len(values), buffers)


def numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column of whole numbers. Nulls, which frspec never writes, come out as arbitrary numbers."""
    chunks = [values(chunk) for chunk in table[name].chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int64)


def values(array: pa.Array) -> np.ndarray:
    """The numbers of one Arrow array."""
    data = array.buffers()[1]
    every = np.frombuffer(data, dtype=array.type.to_pandas_dtype()) if data is not None else np.zeros(0, np.int64)
    return every[array.offset : array.offset + len(array)]
