"""Writes a subset in the formats that serving engines and trainers read, each with a manifest beside it.

`fr-spec` and `sglang`: a .pt with a plain list, most frequent first. `ids-pt`, `npy`, `json`, `txt`: ids, ascending.
`eagle3`: `{"d2t", "t2d"}` as .pt, or as safetensors where the name ends so. `speculators`: a folder with d2t.npy and
t2d.npy. `token-freq`: speculators' counts. Equal subsets give equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frspec_cli import __version__, storage
from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.subsets.subset import VocabularySubset

BY_RANK, BY_ID = "rank", "id"
MANIFEST = ".manifest.json"


@dataclass(frozen=True)
class Export:
    """What was written. out: the file or folder. files: all of them. ids: int64 [k] as the file has them."""

    out: str
    format: str
    ids: np.ndarray
    files: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Hex sha256 of the ids in the file's order."""
        return storage.sha256_ids(self.ids)


def export_subset(
    subset: VocabularySubset, to: str, out: Path | str, *, order: str | None = None, vocabulary_rows: int | None = None
) -> Export:
    """Writes `subset` as `to` and its manifest.

    order: `rank` or `id`, where the format leaves a choice. vocabulary_rows: the target's, in place of the subset's.
    Raises `FrspecError` where the format cannot hold the subset, `UsageError` for an unknown format or order.
    """
    if to not in WRITERS:
        raise UsageError(f"--to {to} is none of {', '.join(WRITERS)}.")
    writer = WRITERS[to]
    order = order or writer.order
    if order not in (BY_RANK, BY_ID) or (writer.fixed and order != writer.order):
        raise UsageError(f"--order {order} does not go with --to {to}, whose order is by {writer.order}.")
    rows = vocabulary_rows or subset.metadata["vocabulary_rows"]
    if (highest := int(subset.token_ids.max())) >= rows:
        raise FrspecError(f"the subset holds the id {highest}, which does not fit a vocabulary of {rows} rows.")
    ids = subset.token_ids.astype(np.int64)
    ids = np.sort(ids) if order == BY_ID else ids
    files = writer.files(subset, ids, rows, str(out))
    for file, data in files.items():
        storage.write_bytes(file, data)
    export = Export(str(out), to, ids, tuple(files), _warnings(subset, to, vocabulary_rows))
    storage.write_json(manifest_path(out), _manifest(subset, export, order, rows, files))
    return export


def manifest_path(out: Path | str) -> Path:
    """Where the manifest of an exported file or folder lies."""
    out = Path(out)
    return out / f"vocabulary{MANIFEST}" if out.is_dir() else out.with_name(out.name + MANIFEST)


def to_map(ids: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """d2t int64 [D] (offsets) and t2d bool [rows] of ascending ids: target = draft + d2t[draft]."""
    t2d = np.zeros(rows, dtype=bool)
    t2d[ids] = True
    return ids - np.arange(len(ids)), t2d


def tokens_sha256(tokens: dict[int, bytes]) -> str:
    """Hex sha256 over `id, length, bytes` of tokens in the order of their ids: equal where they mean the same."""
    digest = hashlib.sha256()
    for index, content in sorted(tokens.items()):
        digest.update(f"{index} {len(content)} ".encode() + content)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Writer:
    """files(subset, ids, rows, out) -> path -> bytes. fixed: the order is part of the format. suffix: for --format."""

    files: Callable[[VocabularySubset, np.ndarray, int, str], dict[str, bytes]]
    order: str
    fixed: bool
    suffix: str


def _torch_bytes(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()  # saved to a path, a .pt holds that path's name, and equal lists have unequal bytes
    torch.save(value, buffer)
    return buffer.getvalue()


def _plain_torch_bytes(value: list[int] | dict[int, int]) -> bytes:
    """What torch.save makes of plain data, without the second that importing torch takes: a zip with one pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored, not compressed, as torch reads it
        for name, data in (
            ("data.pkl", pickle.dumps(value, protocol=2)),
            ("byteorder", b"little"),
            ("version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", date_time=(1980, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


def _numpy_bytes(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _list_pt(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: _plain_torch_bytes(ids.tolist())}


def _tensor_pt(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    import torch

    return {out: _torch_bytes(torch.from_numpy(ids.copy()))}


def _eagle3(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    import torch

    d2t, t2d = (torch.from_numpy(array) for array in to_map(ids, rows))
    if out.endswith(".safetensors"):
        from safetensors.torch import save

        return {out: save({"d2t": d2t, "t2d": t2d})}
    return {out: _torch_bytes({"d2t": d2t, "t2d": t2d})}


def _speculators(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    if Path(out).is_file():
        raise FrspecError(f"{out} is a file, but speculators reads a folder with d2t.npy and t2d.npy.")
    Path(out).mkdir(parents=True, exist_ok=True)
    d2t, t2d = to_map(ids, rows)
    return {f"{out}/d2t.npy": _numpy_bytes(d2t), f"{out}/t2d.npy": _numpy_bytes(t2d)}


def _token_freq(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    if not subset.counts.any():
        raise FrspecError("the subset holds no counts, and speculators' token_freq.pt is nothing but counts.")
    if missing := int((subset.counts == 0).sum()):
        raise FrspecError(
            f"{missing} tokens of the subset were never seen, and token_freq.pt keeps only what was.",
            hint="Export d2t and t2d instead: --to speculators.",
        )
    return {out: _plain_torch_bytes(dict(zip(ids.tolist(), subset.counts.tolist(), strict=True)))}


def _npy(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: _numpy_bytes(ids)}


def _json(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: (json.dumps(ids.tolist()) + "\n").encode()}


def _txt(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    return {out: "".join(f"{index}\n" for index in ids).encode()}


WRITERS = {
    "fr-spec": _Writer(_list_pt, BY_RANK, False, ".fr-spec.pt"),
    "sglang": _Writer(_list_pt, BY_RANK, False, ".sglang.pt"),
    "eagle3": _Writer(_eagle3, BY_ID, True, ".eagle3.pt"),
    "speculators": _Writer(_speculators, BY_ID, True, ".speculators"),
    "token-freq": _Writer(_token_freq, BY_RANK, True, ".token_freq.pt"),
    "ids-pt": _Writer(_tensor_pt, BY_ID, False, ".ids.pt"),
    "npy": _Writer(_npy, BY_ID, False, ".npy"),
    "json": _Writer(_json, BY_ID, False, ".json"),
    "txt": _Writer(_txt, BY_ID, False, ".txt"),
}


def _warnings(subset: VocabularySubset, to: str, vocabulary_rows: int | None) -> tuple[str, ...]:
    said = []
    if to in ("eagle3", "speculators") and not vocabulary_rows:
        rows = subset.metadata["vocabulary_rows"]
        if subset.metadata.get("vocabulary_rows_from", "tokenizer") == "tokenizer":
            said.append(
                f"t2d has {rows} entries, the tokenizer's, because no model is known; engines refuse it where the model "
                "has more rows. Name the model's with --vocab-rows."
            )
    if to in ("fr-spec", "sglang") and not subset.metadata.get("nested", True):
        why = "its order is by id" if "imported" in subset.metadata["origin"] else "it was made with script budgets"
        said.append(f"cut no shorter list from this one: {why}.")
    return tuple(said)


def _manifest(
    subset: VocabularySubset, export: Export, order: str, rows: int, files: dict[str, bytes]
) -> dict[str, Any]:
    tokenizer = subset.metadata["tokenizer"]
    return {
        "schema": 1,
        "format": export.format,
        "order": order,
        "k": subset.k,
        "sha256": export.sha256,
        "files": {Path(file).name: hashlib.sha256(data).hexdigest() for file, data in files.items()},
        "tokenizer": {name: tokenizer.get(name) for name in ("reference", "fingerprint")},
        "tokens_sha256": tokens_sha256(dict(zip(subset.token_ids.tolist(), subset.tokens, strict=True))),
        "vocabulary_rows": rows,
        "origin": subset.metadata["origin"],
        "frspec": __version__,
    }
