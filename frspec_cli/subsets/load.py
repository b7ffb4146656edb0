"""Loads a subset for a model: is it of this tokenizer, are its ids rows of this model, how much of it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from frspec_cli.errors import FrspecError
from frspec_cli.subsets.foreign_read import container, read_foreign
from frspec_cli.subsets.importing import import_list
from frspec_cli.subsets.subset import VocabularySubset, show_token
from frspec_cli.tokens.tokenizer import LoadedTokenizer


def load_subset(
    path: Path | str,
    *,
    tokenizer: LoadedTokenizer | None = None,
    model_rows: int | None = None,
    k: int | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> VocabularySubset:
    """Reads a subset and checks it against the tokenizer and the model that will use it.

    A foreign file (FR-Spec's .pt and the like) is imported on the way, for which the tokenizer must be given.
    k: use the first k rows only. warn: called with a sentence where the fingerprints differ and every id means the
    same bytes all the same. Raises `FrspecError` for another tokenizer's subset, for ids past the model's rows, and as
    `VocabularySubset.read` and `prefix` do.
    """
    subset = _read(path, tokenizer, model_rows, warn)
    if k is not None:
        subset = subset.prefix(k)
    if tokenizer is not None:
        check_tokenizer(subset, tokenizer, name=str(path), warn=warn)
    if model_rows is not None and (highest := int(subset.token_ids.max())) >= model_rows:
        raise FrspecError(
            f"{path} holds the token id {highest}, but the model has only {model_rows} rows.",
            hint="It belongs to another model; build one: frspec build-vocab COUNTS --model MODEL --k K --out PATH.",
        )
    return subset


def _read(
    path: Path | str, tokenizer: LoadedTokenizer | None, model_rows: int | None, warn: Callable[[str], None]
) -> VocabularySubset:
    if not Path(path).is_dir() and container(path) == "parquet":
        return VocabularySubset.read(path)
    found = read_foreign(path)
    if tokenizer is None:
        raise FrspecError(
            f"{path} is no vocabulary subset but a list of ids ({found.format}), which does not say whose they are.",
            hint=f"Import it: frspec import-vocab {path} --tokenizer T --out subset.parquet",
        )
    done = import_list(found, tokenizer, vocabulary_rows=model_rows)
    for warning in done.warnings:
        warn(warning)
    return done.subset


def check_tokenizer(
    subset: VocabularySubset, tokenizer: LoadedTokenizer, *, name: str, warn: Callable[[str], None]
) -> None:
    """Raises `FrspecError` unless every id of the subset means the same bytes in `tokenizer`.

    Equal fingerprints settle it. One model's tokenizer comes in several files (a GGUF's lacks Gemma's image token), so
    different ones are compared id by id.
    """
    if subset.fingerprint == tokenizer.fingerprint:
        return
    recorded = subset.metadata["tokenizer"]
    both = (
        f"{recorded['reference']} ({subset.fingerprint[:12]}) and {tokenizer.reference} ({tokenizer.fingerprint[:12]})"
    )
    index = first_difference(zip(subset.token_ids.tolist(), subset.tokens, strict=True), tokenizer)
    if index is not None:
        mine = subset.tokens[int(np.flatnonzero(subset.token_ids == index)[0])]
        raise FrspecError(
            f"{name} was made for another tokenizer: {both} differ, first at id {index}, which is {show_token(mine)} "
            f"there and {_theirs(tokenizer, index)} here.",
            hint="Build a subset for this model: frspec build-vocab COUNTS --model MODEL --k K --out PATH",
        )
    warn(f"{name}: the tokenizers {both} differ, but all {subset.k} ids of the subset mean the same bytes in both.")


def first_difference(tokens: Iterable[tuple[int, bytes]], tokenizer: LoadedTokenizer) -> int | None:
    """The lowest id whose bytes are not those that `tokenizer` has for it; None where all agree."""
    for index, content in sorted(tokens):
        if index not in tokenizer.vocabulary or tokenizer.token_bytes(index) != content:
            return index
    return None


def _theirs(tokenizer: LoadedTokenizer, index: int) -> str:
    return show_token(tokenizer.token_bytes(index)) if index in tokenizer.vocabulary else "no token"
