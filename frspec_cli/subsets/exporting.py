"""A subset to a file that a serving engine or a trainer reads, with a manifest beside it. Equal subsets, equal bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from frspec_cli import outputs, storage
from frspec_cli.errors import FrspecError, UsageError, not_one_of, option
from frspec_cli.models.locate import serving_name
from frspec_cli.subsets.formats import WRITERS, Writer
from frspec_cli.subsets.manifest import manifest_bytes, manifest_path
from frspec_cli.subsets.subset import VocabularySubset


@dataclass(frozen=True)
class Export:
    """What was written.

    out: the file or folder.
    ids: int64 [k], in the file's order.
    warnings: what the user of the file should know.
    usage: the command line that uses the file; "" if there is none.
    usage_note: what whoever adds to that command should know; "" if there is nothing.
    """

    out: str
    format: str
    ids: np.ndarray
    warnings: tuple[str, ...]
    usage: str
    usage_note: str

    @property
    def sha256(self) -> str:
        """Hex sha256 of the ids in the file's order."""
        return storage.sha256_ids(self.ids)


def export_subset(
    subset: VocabularySubset, to: str, out: Path | str, *, order: str | None = None, vocab_rows: int | None = None
) -> Export:
    """Writes `subset` and its manifest.

    to: a key of `WRITERS`.
    order: `rank` or `id`, if the format leaves a choice.
    vocab_rows: the target's, in place of the subset's.
    Raises `FrspecError` if the format cannot hold the subset, `UsageError` for an unknown format or order.
    """
    writer = _writer(to)
    order = order or writer.order
    if order != writer.order and (order not in ("rank", "id") or writer.order_is_fixed):
        raise UsageError(
            f"{option('order')} {order} does not go with {option('to')} {to}, whose order is by {writer.order}."
        )
    rows = vocab_rows or subset.metadata["vocabulary_rows"]
    if (highest := int(subset.token_ids.max())) >= rows:
        raise FrspecError(f"the subset holds the id {highest}, which does not fit a vocabulary of {rows} rows.")
    ids = subset.token_ids.astype(np.int64)
    if order == "id":
        ids = np.sort(ids)
    elif order == "count":
        ids = ids[np.lexsort((ids, -subset.counts))]
    files = writer.files(subset, ids, rows, str(out))
    manifest = {}
    if not storage.is_stream(out):  # nothing can be put beside a pipe
        path = manifest_path(out, is_folder=bool(writer.folder_files))
        manifest[str(path)] = manifest_bytes(subset, to=to, order=order, ids=ids, rows=rows, files=files)
    storage.write_together({**files, **manifest})
    warnings = [_rows_warning(subset) if writer.holds_rows and not vocab_rows else "", writer.warning(subset)]
    usage = writer.usage(_resolvable(subset), str(out))
    return Export(str(out), to, ids, tuple(filter(None, warnings)), usage, writer.usage_note)


def _resolvable(subset: VocabularySubset) -> VocabularySubset:
    """The subset under a name of its model that another program can open."""
    tokenizer = subset.metadata["tokenizer"]
    named = tokenizer | {"reference": serving_name(str(tokenizer.get("reference", "")))}
    return replace(subset, metadata=subset.metadata | {"tokenizer": named})


def check_export(to: str, out: Path | str, inputs: Iterable[Path | str | None]) -> Path:
    """The path to export to, as `outputs.check` gives it, after a check of all that the export writes there.

    Raises `FrspecError` if it would write over something else, `UsageError` for an unknown format.
    """
    if files := _writer(to).folder_files:
        for name in files:
            outputs.check(f"{out}/{name}", inputs=inputs)
        return Path(os.path.expanduser(out))
    path = outputs.check(out, inputs=inputs)
    if not storage.is_stream(path):
        outputs.check(manifest_path(path), inputs=inputs)
    return path


def _writer(to: str) -> Writer:
    if to == "vllm":
        raise UsageError(
            "no released version of vLLM takes a draft vocabulary for EAGLE-1/2 heads, so there is no file to write for it.",
            hint="EAGLE-3 heads carry their own vocabulary: frspec export-draft --to speculators.",
        )
    if to not in WRITERS:
        raise not_one_of("to", to, WRITERS)
    return WRITERS[to]


def _rows_warning(subset: VocabularySubset) -> str:
    if subset.metadata.get("vocabulary_rows_from", "tokenizer") != "tokenizer":
        return ""
    return (
        f"t2d has {subset.metadata['vocabulary_rows']} entries, the tokenizer's, because the model's rows are not known; "
        f"engines refuse it if the model has more. Say how many with {option('vocab_rows')}."
    )
