"""Token ids in a file of no project in particular: .npy or JSON, a list or `{"ids": [...]}`."""

from __future__ import annotations

import json

import numpy as np

from frspec_cli.subsets.formats.base import ForeignList, Writer, from_array, from_ids, numpy_bytes, objects
from frspec_cli.subsets.formats.content import Content
from frspec_cli.subsets.subset import VocabularySubset

# Reading.


def read(content: Content, read_as: str | None) -> ForeignList | None:
    """The ids (or, in .npy, scores); None if the content is neither."""
    value = content.value
    if content.container == "numpy":
        return from_array(content.name, "npy", value)
    if content.container != "json":
        return None
    if isinstance(value, dict):
        value = next((value[key] for key in ("token_ids", "ids") if isinstance(value.get(key), list)), None)
    return from_ids(content.name, "json", objects(value)) if isinstance(value, list) else None


# Writing.


def _npy(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: numpy_bytes(ids)}


def _json(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: (json.dumps(ids.tolist()) + "\n").encode()}


def _json_ids(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: (json.dumps({"ids": ids.tolist()}) + "\n").encode()}


WRITERS = {
    "npy": Writer(_npy, "id", ".npy"),
    "json": Writer(_json, "id", ".json"),
    "json-ids": Writer(_json_ids, "id", ".ids.json"),
}
