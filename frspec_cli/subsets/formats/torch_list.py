"""Token ids in a .pt: a plain list, most frequent first (FR-Spec, SGLang), or a tensor (community files).

This is the file to copy for a new family: a `read`, the `WRITERS`, and two lines in `formats/__init__.py`.
"""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np

from frspec_cli.subsets.formats.base import ForeignList, Writer, from_array, from_ids, from_scores, objects, torch_bytes
from frspec_cli.subsets.formats.content import Content
from frspec_cli.subsets.subset import VocabularySubset

# Reading.


def read(content: Content, read_as: str | None) -> ForeignList | None:
    """The ids (or scores) of a list or a tensor; None if the content is not a .pt with one of the two."""
    if content.container != "torch":
        return None
    if isinstance(content.value, np.ndarray):
        return from_array(content.name, "ids-pt", content.value)
    if not isinstance(content.value, list):
        return None
    if content.value and all(isinstance(each, float) for each in content.value):
        return from_scores(content.name, np.array(content.value))
    return from_ids(content.name, "fr-spec", objects(content.value))


# Writing.


def plain_torch_bytes(value: list[int] | dict[int, int]) -> bytes:
    """What `torch.save` writes for plain data: a zip with one pickle.

    By hand, because importing torch takes longer than all the rest: `export-vocab --to sglang` needs 0.8 s of CPU, through
    `torch.save` 2.8 s (medians of five interleaved runs).
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored, not compressed, as torch reads it
        for name, data in (
            ("data.pkl", pickle.dumps(value, protocol=2)),
            ("byteorder", b"little"),
            ("version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", date_time=(1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


def _write_list(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: plain_torch_bytes(ids.tolist())}


def _write_tensor(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    import torch

    return {out: torch_bytes(torch.from_numpy(ids.copy()))}


def _cannot_be_cut(subset: VocabularySubset) -> str:
    if subset.metadata.get("nested", True):
        return ""
    origin = subset.metadata["origin"]
    why = "it was made with script budgets"
    if "imported" in origin:
        why = "its order is by id"
    elif (origin.get("recipe") or {}).get("shards", 1) > 1:
        why = "it was made with equal slices of the vocabulary"
    return f"do not cut a shorter list from this one: {why}."


_SGLANG_NOTE = (
    "put your EAGLE-1/2 head in place of EAGLE_HEAD (for EAGLE-3 heads the map is ignored), keep tensor parallelism at 1, and "
    "leave SGLang's option speculative-use-rejection-sampling off: with it, SGLang (0.5.23) refuses a token map, since the "
    "drafts are not over the target's whole vocabulary."
)


def _sglang(subset: VocabularySubset, out: str) -> str:
    target = subset.metadata["tokenizer"]["reference"]
    return (
        f"python -m sglang.launch_server --model-path {target} --speculative-algorithm EAGLE "
        "--speculative-draft-model-path EAGLE_HEAD --speculative-num-steps 3 --speculative-eagle-topk 4 "
        f"--speculative-num-draft-tokens 16 --speculative-token-map {out}"
    )


WRITERS = {
    "fr-spec": Writer(_write_list, "rank", ".fr-spec.pt", warning=_cannot_be_cut),
    "sglang": Writer(_write_list, "rank", ".sglang.pt", warning=_cannot_be_cut, usage=_sglang, usage_note=_SGLANG_NOTE),
    "ids-pt": Writer(_write_tensor, "id", ".ids.pt"),
}
