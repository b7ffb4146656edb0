"""Loads a subset for a model: checks its tokenizer and the model's rows, and cuts it to the size that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats import read_foreign
from frspec_cli.subsets.formats.content import container
from frspec_cli.subsets.importing import import_list
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.subsets.tokenizer_check import Tokenizer, check_subset


def load_subset(
    path: Path | str,
    *,
    tokenizer: Tokenizer | None = None,
    model_rows: int | None = None,
    k: int | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> VocabularySubset:
    """Reads a subset and checks it against the tokenizer and the model that will use it.

    path: a subset, or a foreign file (FR-Spec's .pt and the like), which is imported on the way.
    tokenizer: of the model; a foreign file needs it.
    model_rows: rows of the model's embedding.
    k: use the first k rows only.
    warn: called with a sentence if the fingerprints differ and every id means the same bytes in both.
    Raises `FrspecError` for another tokenizer's subset, for ids past the model's rows, and as `VocabularySubset.read` and
    `prefix` do.
    """
    subset = _read(path, tokenizer, model_rows, warn)
    if k is not None:
        subset = subset.prefix(k)
    if tokenizer is not None:
        check_subset(subset, tokenizer, name=str(path), warn=warn)
    if model_rows is not None and (highest := int(subset.token_ids.max())) >= model_rows:
        raise FrspecError(
            f"{path} holds the token id {highest}, but the model has only {model_rows} rows.",
            hint="It belongs to another model; build one: frspec build-vocab COUNTS --model MODEL --k K --out PATH.",
        )
    return subset


def _read(
    path: Path | str, tokenizer: Tokenizer | None, model_rows: int | None, warn: Callable[[str], None]
) -> VocabularySubset:
    if not Path(path).is_dir() and container(path) == "parquet":
        return VocabularySubset.read(path)
    entries = read_foreign(path)
    if tokenizer is None:
        raise FrspecError(
            f"{path} is not a vocabulary subset but a list of ids ({entries.format}) that does not name its tokenizer.",
            hint=f"Import it: frspec import-vocab {path} --tokenizer T --out subset.parquet",
        )
    imported = import_list(entries, tokenizer, vocab_rows=model_rows)
    for warning in imported.warnings:
        warn(warning)
    return imported.subset
