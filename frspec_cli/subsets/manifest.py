"""The manifest beside an exported file: which ids it holds, whose they are, and where the counts came from.

A list of ids says nothing of the kind itself, so a file that was exchanged for another of equal size would pass.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from frspec_cli import __version__, schema, storage
from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats import ForeignList
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.subsets.tokenizer_check import Tokenizer, tokens_bytes

_SUFFIX = ".manifest.json"


class _Tokenizer(schema.Schema):
    reference: str | None = None
    fingerprint: str | None = None


class _Manifest(schema.Schema):
    """The fields of a manifest that are read back."""

    sha256: str | None = None
    tokens_sha256: str | None = None
    tokenizer: _Tokenizer = _Tokenizer()
    files: dict[str, str] | None = None


def manifest_path(out: Path | str, *, is_folder: bool = False) -> Path:
    """Where the manifest of an exported file or folder (`is_folder` if it may not exist yet) is."""
    out = Path(out)
    return out / f"vocabulary{_SUFFIX}" if is_folder or out.is_dir() else out.with_name(out.name + _SUFFIX)


def manifest_bytes(
    subset: VocabularySubset,
    *,
    to: str,
    order: str,
    ids: np.ndarray,
    rows: int,
    files: dict[str, bytes],
) -> bytes:
    """The manifest of an export, as it is written.

    to: the format.
    order: `rank` or `id`.
    ids: int64 [k], in the file's order.
    rows: of the target's vocabulary.
    files: the bytes of each file by its path.
    """
    tokenizer = subset.metadata["tokenizer"]
    manifest: dict[str, Any] = {
        "schema": 1,
        "format": to,
        "order": order,
        "k": subset.k,
        "sha256": storage.sha256_ids(ids),
        "files": {Path(file).name: hashlib.sha256(data).hexdigest() for file, data in files.items()},
        "tokenizer": {name: tokenizer.get(name) for name in ("reference", "fingerprint")},
        "tokens_sha256": _tokens_sha256(dict(zip(subset.token_ids.tolist(), subset.tokens, strict=True))),
        "vocabulary_rows": rows,
        "origin": subset.metadata["origin"],
        "frspec": __version__,
    }
    return storage.json_bytes(manifest)


def check_manifest(entries: ForeignList, tokenizer: Tokenizer) -> list[str]:
    """Compares a file with its manifest, if it has one. Returns what the user should know.

    Raises `FrspecError` if the file holds other ids, or ids that mean other tokens in `tokenizer`.
    """
    path = _manifest_of(Path(entries.name))
    if path is None:
        return []
    manifest = _read(path)
    if manifest.sha256 != storage.sha256_ids(entries.ids):
        raise FrspecError(
            f"{entries.name} does not hold the ids that its manifest {path.name} describes.",
            hint="It was changed or exchanged after the export: export it again, or remove the manifest.",
        )
    recorded = manifest.tokenizer
    if recorded.fingerprint == tokenizer.fingerprint:
        return []
    both = f"{recorded.reference} and {tokenizer.reference}"
    ids = sorted(set(entries.ids.tolist()))
    tokens = dict(zip(ids, tokens_bytes(tokenizer, ids), strict=True))
    if manifest.tokens_sha256 != _tokens_sha256(tokens):
        raise FrspecError(f"{entries.name} was exported for another tokenizer: {both} differ in its ids.")
    return [f"the tokenizers {both} differ, but all its ids mean the same bytes in both."]


def described_reading(entries: ForeignList) -> ForeignList | None:
    """The reading of a file with two that its manifest describes; None if it has no manifest, or describes neither."""
    path = _manifest_of(Path(entries.name))
    described = None if path is None else _read(path).sha256
    for each in (entries, entries.otherwise):
        if each is not None and described == storage.sha256_ids(each.ids):
            return replace(each, otherwise=None)
    return None


def _manifest_of(file: Path) -> Path | None:
    """The manifest of a file or folder, or of the folder that a file was exported in; None if there is none."""
    own, folder = manifest_path(file), file.parent / f"vocabulary{_SUFFIX}"
    if own.is_file():
        return own
    return folder if folder.is_file() and file.name in (_read(folder).files or {}) else None


def _read(path: Path) -> _Manifest:
    return schema.check(_Manifest, schema.read_object(path), path, hint="Remove the manifest, or export again.")


def _tokens_sha256(tokens: dict[int, bytes]) -> str:
    """Hex sha256 over `id, length, bytes` of tokens in the order of their ids: equal if they mean the same."""
    digest = hashlib.sha256()
    for index, content in sorted(tokens.items()):
        digest.update(f"{index} {len(content)} ".encode() + content)
    return digest.hexdigest()
