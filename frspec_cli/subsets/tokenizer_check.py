"""Do two files mean the same tokens? Equal fingerprints settle it; different ones are compared id by id.

One model's tokenizer comes in several files (a GGUF's lacks Gemma's image token), so another fingerprint alone is not a
reason to refuse: what counts is whether every id that is used stands for the same bytes in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from frspec_cli.counting.table import FrequencyTable
from frspec_cli.errors import FrspecError
from frspec_cli.subsets.subset import VocabularySubset, show_token
from frspec_cli.tokens.recorded import RecordedTokenizer
from frspec_cli.tokens.split_rules import differing_parts
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer

Tokenizer = LoadedTokenizer | RecordedTokenizer
"""One that is at hand, or as a table remembers it."""


def check_subset(subset: VocabularySubset, tokenizer: Tokenizer, *, name: str, warn: Callable[[str], None]) -> None:
    """Raises `FrspecError` unless every id of the subset means the same bytes in `tokenizer`.

    name: what messages call the subset.
    warn: called with a sentence if the tokenizers differ and the bytes do not.
    """
    record = subset.metadata["tokenizer"]
    both = _both(record, tokenizer)
    if subset.fingerprint == tokenizer.fingerprint:
        if parts := differing_parts(record, tokenizer.identity):
            warn(
                f"{name}: its ids mean the same tokens here, but they were ranked with another tokenizer: {both} split text "
                f"differently (in {', '.join(parts)})."
            )
        return
    index = _first_difference(zip(subset.token_ids.tolist(), subset.tokens, strict=True), tokenizer)
    if index is not None:
        ours = show_token(subset.tokens[int(np.flatnonzero(subset.token_ids == index)[0])])
        theirs = show_token(tokenizer.token_bytes(index)) if index in tokenizer.spelled else "no token"
        raise FrspecError(
            f"{name} was made for another tokenizer: {both} differ, first at id {index}, which is {ours} there and "
            f"{theirs} here.",
            hint="Build a subset for this model: frspec build-vocab COUNTS --model MODEL --k K --out PATH",
        )
    warn(f"{name}: the tokenizers {both} differ, but all {subset.k} ids of the subset mean the same bytes in both.")


def check_table(table: FrequencyTable, tokenizer: Tokenizer, *, name: str, warn: Callable[[str], None]) -> None:
    """Raises `FrspecError` unless every counted id means the same bytes in `tokenizer`, which splits text alike.

    Most tables hold ids and no bytes, so the tokenizer that counted must be available to compare them.
    """
    record = table.metadata["tokenizer"]
    both = _both(record, tokenizer)
    if same_counts(table.tokenizers, tokenizer, name=name, warn=warn):
        return
    if table.fingerprint == tokenizer.fingerprint:
        _check_split_rules(record, tokenizer, name)
        return
    theirs = recorded_tokenizer(record) if table.tokens is None else table.tokenizers[0]
    if theirs is None:
        raise FrspecError(
            f"{name} was counted with another tokenizer: {both}.",
            hint="Name the tokenizer that counted, or count again with this one.",
        )
    counted = np.flatnonzero(table.totals() > 0).tolist()
    index = _first_difference(zip(counted, theirs.tokens_bytes(counted), strict=True), tokenizer)
    if index is not None:
        raise FrspecError(
            f"{name} was counted with another tokenizer: {both} differ, first at id {index}, which is "
            f"{show_token(theirs.token_bytes(index))} there.",
            hint="Count again with this one.",
        )
    _check_split_rules(record, tokenizer, name)
    warn(f"{name}: the tokenizers {both} differ, but all {len(counted)} counted ids mean the same bytes in both.")


def same_counts(
    recorded: Sequence[RecordedTokenizer], tokenizer: Tokenizer, *, name: str, warn: Callable[[str], None]
) -> bool:
    """Whether `tokenizer` gives the counts of a table that spells its tokens.

    recorded: the table's tokenizers. One of them is the same, or spells every counted id alike and splits text alike.
    name: what messages call the table.
    warn: called with a sentence in the second case.
    """
    alike = [each for each in recorded if not differing_parts(each.identity, tokenizer.identity)]
    if any(each.fingerprint == tokenizer.fingerprint for each in alike):
        return True
    for each in alike:
        if _first_difference(each.counted.items(), tokenizer) is None:
            both = _both(each.identity, tokenizer)
            warn(
                f"{name}: the tokenizers {both} differ, but all {len(each.counted)} counted ids mean the same bytes in both."
            )
            return True
    return False


def check_subset_against_table(
    subset: VocabularySubset, table: FrequencyTable, *, name: str, warn: Callable[[str], None]
) -> None:
    """Raises `FrspecError` unless every id of the subset means the same bytes in the tokenizer that counted the table."""
    if subset.fingerprint == table.fingerprint:
        return
    record = table.metadata["tokenizer"]
    counted_by = next(iter(table.tokenizers), None) or recorded_tokenizer(record)
    if counted_by is None:
        raise FrspecError(
            f"{name} was made for another tokenizer than the table's: {subset.metadata['tokenizer']['reference']} "
            f"({subset.fingerprint[:12]}) and {record['reference']} ({table.fingerprint[:12]}), which cannot be loaded.",
            hint="Count the text again with the subset's tokenizer.",
        )
    check_subset(subset, counted_by, name=name, warn=warn)


def recorded_tokenizer(record: Mapping[str, Any]) -> LoadedTokenizer | None:
    """The tokenizer that metadata names; None if it cannot be loaded or has changed since."""
    try:
        tokenizer = load_tokenizer(record["reference"])
    except FrspecError:
        return None
    return tokenizer if tokenizer.fingerprint == record["fingerprint"] else None


def eos_ids(record: Mapping[str, Any]) -> list[int] | None:
    """The end-of-sequence ids of the tokenizer that metadata names; None if they are unknown."""
    if ids := [int(index) for index, kind in record.get("forced", {}).items() if kind == "eos"]:
        return ids
    tokenizer = recorded_tokenizer(record)
    return None if tokenizer is None else sorted(tokenizer.eos_ids)


def tokens_bytes(tokenizer: Tokenizer, ids: Iterable[int]) -> list[bytes]:
    """The bytes of each id; none for the rows that a model may have past its tokenizer's last token."""
    return [b"" if index > tokenizer.highest_id else tokenizer.token_bytes(index) for index in ids]


def _check_split_rules(record: Mapping[str, Any], tokenizer: Tokenizer, name: str) -> None:
    if parts := differing_parts(record, tokenizer.identity):
        raise FrspecError(
            f"{name} was counted with a tokenizer that splits text differently: {_both(record, tokenizer)} differ in "
            f"{', '.join(parts)}.",
            hint="Count the text again with this one.",
        )


def _first_difference(tokens: Iterable[tuple[int, bytes]], tokenizer: Tokenizer) -> int | None:
    """The lowest id whose bytes differ from those that `tokenizer` has for it; None if all agree."""
    # A row past the last token in both has no bytes and is no difference.
    compared = [(index, content) for index, content in sorted(tokens) if index <= tokenizer.highest_id or content]
    known = [index for index, _ in compared if index in tokenizer.spelled]
    here = dict(zip(known, tokenizer.tokens_bytes(known), strict=True))
    return next((index for index, content in compared if here.get(index) != content), None)


def _both(record: Mapping[str, Any], tokenizer: Tokenizer) -> str:
    return (
        f"{record['reference']} ({record['fingerprint'][:12]}) and {tokenizer.reference} ({tokenizer.fingerprint[:12]})"
    )
