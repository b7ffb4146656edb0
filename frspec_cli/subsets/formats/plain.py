"""Token ids in a file of no project in particular: .npy, JSON, or text with one id a line."""

from __future__ import annotations

import json
import re

import numpy as np

from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats.base import ForeignList, Writer, from_array, from_ids, numpy_bytes
from frspec_cli.subsets.formats.content import Content
from frspec_cli.subsets.subset import VocabularySubset

# Reading.


def read(content: Content, read_as: str | None) -> ForeignList | None:
    """The ids (or, in .npy, scores); None if the content is none of the three."""
    value = content.value
    if content.container == "numpy":
        return from_array(content.name, "npy", value)
    if content.container == "text":
        return from_ids(content.name, "txt", _lines(content.name, value))
    if content.container != "json":
        return None
    if isinstance(value, dict):
        value = next((value[key] for key in ("token_ids", "ids") if isinstance(value.get(key), list)), None)
    return from_ids(content.name, "json", np.array(value, dtype=object)) if isinstance(value, list) else None


def _lines(name: str, text: str) -> np.ndarray:
    ids = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if not re.fullmatch(r"\s*\d{1,10}\s*", line):
            shown = line.strip()[:40]
            raise FrspecError(f"{name}: line {number} ({shown!r}) is not a token id; such a file has one id a line.")
        ids.append(int(line))
    return np.array(ids, dtype=np.int64)


# Writing.


def _npy(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: numpy_bytes(ids)}


def _json(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: (json.dumps(ids.tolist()) + "\n").encode()}


def _txt(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: "".join(f"{index}\n" for index in ids).encode()}


WRITERS = {
    "npy": Writer(_npy, "id", ".npy"),
    "json": Writer(_json, "id", ".json"),
    "txt": Writer(_txt, "id", ".txt"),
}
