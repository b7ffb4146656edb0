"""Whether the header of a .gguf promises no more than the file holds.

The `gguf` package takes every length in it at its word: one wrong bit in the length of a list, and it fills the memory with
what lies behind the end. The layout is that of llama.cpp's specification (docs/gguf.md of ggml), versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from frspec_cli.errors import FrspecError

_MOST_ENTRIES = 1 << 16
"""Of metadata, or tensors."""
_MOST_ITEMS = 1 << 22
"""Of one list; the longest have one for each token or merge of a vocabulary."""
_MOST_DIMENSIONS = 8
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value -> its bytes."""
_STRING, _ARRAY = 8, 9


def check_gguf(path: Path) -> None:
    """Raises `FrspecError` if the file is no .gguf, or its header runs past its end."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Header(data).check()
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except (OSError, ValueError, struct.error) as error:
        reason = "its header runs past its end" if isinstance(error, struct.error) else error
        raise FrspecError(f"{path} is not a whole .gguf: {reason}.") from None


class _Header:
    """A header, read from its beginning."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.place = 0
        self.order = "<"

    def check(self) -> None:
        """Passes over all of it. Raises ValueError and struct.error."""
        if bytes(self.data[:4]) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self.place = 4
        version = self._number("I")
        if version & 0xFFFF == 0:  # written where the high byte comes first
            self.order, self.place = ">", 4
            version = self._number("I")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}; 2 and 3 are known")
        tensors = self._count("tensors", _MOST_ENTRIES)
        entries = self._count("entries of metadata", _MOST_ENTRIES)
        for _ in range(entries):
            self._pass_string()
            self._pass_value(self._number("I"))
        for _ in range(tensors):
            self._pass_string()
            dimensions = self._number("I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError(f"a tensor in it has {dimensions} dimensions")
            self._pass(8 * dimensions + 12)

    def _pass_value(self, kind: int) -> None:
        if kind == _STRING:
            self._pass_string()
        elif kind == _ARRAY:
            inner, items = self._number("I"), self._count("items in a list", _MOST_ITEMS)
            if inner == _STRING:
                for _ in range(items):
                    self._pass_string()
            else:
                self._pass(items * self._size(inner))
        else:
            self._pass(self._size(kind))

    def _size(self, kind: int) -> int:
        if kind not in _SIZES:
            raise ValueError(f"it holds a value of the unknown type {kind}")
        return _SIZES[kind]

    def _number(self, code: str) -> int:
        value: int = struct.unpack_from(self.order + code, self.data, self.place)[0]
        self.place += struct.calcsize(self.order + code)
        return value

    def _count(self, what: str, most: int) -> int:
        count = self._number("Q")
        if count > most:
            raise ValueError(f"its header promises {count:,} {what}")
        return count

    def _pass_string(self) -> None:
        self._pass(self._number("Q"))

    def _pass(self, size: int) -> None:
        self.place += size
        if self.place > len(self.data):
            raise struct.error
