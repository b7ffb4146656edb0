"""llama.cpp's draft vocabulary in a .gguf: the tensor `d2t`, or a list `<architecture>.nextn.draft_vocab_ids`.

Both hold ids. llama.cpp's converter turns EAGLE-3's offsets into ids, since its graph scatters by them; so a `d2t` that
can only be offsets was not made by it.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats.base import AS_IDS, AS_OFFSETS, ForeignList, Writer, from_ids
from frspec_cli.subsets.formats.content import Content, Gguf
from frspec_cli.subsets.formats.eagle3 import from_map, ids_or_offsets
from frspec_cli.subsets.subset import VocabularySubset

_LIST = "nextn.draft_vocab_ids"


def read(content: Content, read_as: str | None) -> ForeignList | None:
    """The ids in the order of the file; None if it is not a .gguf. Raises `FrspecError` for one without a vocabulary."""
    if not isinstance(content.value, Gguf):
        return None
    rows = content.value.rows
    lists = [
        from_ids(content.name, "gguf-list", ids, rows=rows)
        for key, ids in content.value.lists.items()
        if key.endswith(_LIST)
    ]
    d2t = content.value.tensors.get("d2t")
    if d2t is None and not lists:
        raise FrspecError(
            f"{content.name} is a .gguf without a draft vocabulary: it has neither a tensor d2t nor a list {_LIST}."
        )
    if any(not np.array_equal(each.ids, lists[0].ids) for each in lists):
        raise FrspecError(f"{content.name} holds several lists {_LIST}, which differ.")
    if d2t is None or read_as == AS_IDS:
        return lists[0] if d2t is None else from_ids(content.name, "gguf", d2t, rows=rows)
    if read_as == AS_OFFSETS:
        return from_map(content.name, "gguf-d2t", d2t, None, read_as)
    entries = ids_or_offsets(content.name, "gguf", d2t, rows=rows)
    if not lists:
        return entries
    for each in (entries, entries.otherwise):
        if each is not None and np.array_equal(each.ids, lists[0].ids):
            return replace(each, otherwise=None)  # the list says which reading is meant
    raise FrspecError(f"{content.name}: its tensor d2t and its list {_LIST} name different tokens.")


def _write(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    from gguf import GGUFWriter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.gguf"
        writer = GGUFWriter(path, "eagle3")
        writer.add_array(f"qwen35.{_LIST}", ids.tolist())
        writer.add_tensor("d2t", ids.copy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return {out: path.read_bytes()}


def _only_a_map(subset: VocabularySubset) -> str:
    return "llama.cpp takes d2t from the draft's own .gguf, with an output.weight of the same rows: copy it there."


WRITERS = {"gguf": Writer(_write, "rank", ".gguf", warning=_only_a_map)}
