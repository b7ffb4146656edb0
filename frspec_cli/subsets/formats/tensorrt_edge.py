"""TensorRT-Edge-LLM's reduced vocabulary: `vocab_map` (int32, ascending) with reduced_vocab.json beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from frspec_cli import schema
from frspec_cli.errors import FrspecError, option
from frspec_cli.subsets.formats.base import ForeignList, Writer, from_ids
from frspec_cli.subsets.formats.content import Content
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.subsets.tokenizer_check import eos_ids

_MAP, _INFO = "vocab_map.safetensors", "reduced_vocab.json"
_ROWS = 128  # packed INT4 heads need a multiple


class _Info(schema.Schema):
    """What reduced_vocab.json says."""

    reduced_vocab_size: schema.Rows | None = None
    vocab_size: schema.Rows | None = None


def read(content: Content, read_as: str | None) -> ForeignList | None:
    """The ids in the order of the file; None if the content has no `vocab_map`."""
    if not isinstance(content.value, dict) or "vocab_map" not in content.value:
        return None
    ids = content.value["vocab_map"]
    if not isinstance(ids, np.ndarray):
        raise FrspecError(f"{content.name}: vocab_map is not an array of one dimension.")
    info_path = content.path.with_name(content.path.name.replace(_MAP, _INFO))
    info = _Info()
    if info_path != content.path and info_path.is_file():
        info = schema.check(_Info, schema.read_object(info_path), info_path)
    if info.reduced_vocab_size not in (None, len(ids)):
        raise FrspecError(
            f"{content.name} holds {len(ids)} ids, but {info_path.name} beside it says {info.reduced_vocab_size}."
        )
    return from_ids(content.name, "tensorrt-edge", ids, rows=info.vocab_size)


def _write(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    from safetensors.numpy import save

    if Path(out).is_file():
        raise FrspecError(f"{out} is a file, but TensorRT-Edge-LLM reads a folder with {_MAP}.")
    ends = eos_ids(subset.metadata["tokenizer"])
    if missing := [index for index in ends or [] if index not in ids]:
        raise FrspecError(
            f"the subset lacks the end-of-sequence id {missing[0]}, which TensorRT-Edge-LLM requires.",
            hint=f"Build it with {option('force_id')} {missing[0]}, or with {option('forced')} eos.",
        )
    info = {"vocab_size": rows, "reduced_vocab_size": len(ids), "method": "frspec"}
    return {
        f"{out}/{_MAP}": save({"vocab_map": ids.astype(np.int32)}),
        f"{out}/{_INFO}": (json.dumps(info, indent=2) + "\n").encode(),
    }


def _what_is_doubtful(subset: VocabularySubset) -> str:
    notes = []
    if eos_ids(subset.metadata["tokenizer"]) is None:
        notes.append("its end-of-sequence ids are unknown, so it was not checked that they are among the tokens")
    if subset.k % _ROWS:
        multiple = option("multiple_of")
        notes.append(f"its {subset.k} rows are not a multiple of {_ROWS}, which INT4 heads need ({multiple} {_ROWS})")
    return "TensorRT-Edge-LLM: " + "; ".join(notes) + "." if notes else ""


WRITERS = {
    "tensorrt-edge": Writer(
        _write,
        "id",
        ".tensorrt-edge",
        order_is_fixed=True,
        holds_rows=True,
        folder_files=(_MAP, _INFO),
        warning=_what_is_doubtful,
    )
}
