"""NeMo Automodel's draft_token_map.pt: the selected ids, in the order of the head's rows, with the target's rows."""

from __future__ import annotations

import numpy as np

from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats.base import ForeignList, Writer, from_ids, objects, torch_bytes
from frspec_cli.subsets.formats.content import Content
from frspec_cli.subsets.subset import VocabularySubset

_IDS, _ROWS = "selected_token_ids", "target_vocab_size"


def read(content: Content, read_as: str | None) -> ForeignList | None:
    """The ids in the order of the file; None if the content is not a dictionary with `selected_token_ids`."""
    value = content.value
    if not isinstance(value, dict) or _IDS not in value:
        return None
    ids, rows = value[_IDS], value.get(_ROWS)
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise FrspecError(f"{content.name} holds {_IDS} without {_ROWS}, the number of the target's rows.")
    if isinstance(ids, list):
        ids = objects(ids)
    if not isinstance(ids, np.ndarray):
        raise FrspecError(f"{content.name}: {_IDS} is not an array of one dimension.")
    return from_ids(content.name, "nemo", ids, rows=rows)


def _write(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    import torch

    return {out: torch_bytes({_IDS: torch.from_numpy(ids.copy()), _ROWS: rows})}


WRITERS = {"nemo": Writer(_write, "rank", ".nemo.pt", holds_rows=True)}
