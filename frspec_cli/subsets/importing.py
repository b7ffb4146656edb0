"""A foreign list to a subset: in range, of this vocabulary, each id once, and what a user should know about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frspec_cli import storage
from frspec_cli.counting.ranking import rank_by_count
from frspec_cli.errors import FrspecError, option
from frspec_cli.subsets.choose import FREQUENCY
from frspec_cli.subsets.formats import ForeignList
from frspec_cli.subsets.formats.base import LONGEST_EOS_BLOCK
from frspec_cli.subsets.manifest import check_manifest, described_reading
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.subset import VocabularySubset, show_token
from frspec_cli.subsets.tokenizer_check import Tokenizer, check_table, tokens_bytes


@dataclass(frozen=True)
class Imported:
    """A subset, the file that it came from in the reading that was taken, and the warnings about it."""

    subset: VocabularySubset
    entries: ForeignList
    warnings: tuple[str, ...]


def import_list(
    entries: ForeignList,
    tokenizer: Tokenizer,
    *,
    vocab_rows: int | None = None,
    dedupe: bool = False,
    counts: NamedTable | None = None,
) -> Imported:
    """Makes a subset of a foreign list.

    vocab_rows: the target's, in place of what file or tokenizer tell.
    dedupe: drop later repetitions of any id.
    counts: ranks the ids anew, by (-count, id), for a file that has lost its ranking.
    Raises `FrspecError` for ids out of range or unknown to the tokenizer, for repeated ids, for counts of another
    tokenizer, for a file that is not the one that its manifest describes, and for one that two readings fit.
    """
    entries = _settled(entries, tokenizer, vocab_rows, dedupe)
    rows, rows_from = _rows(entries, tokenizer, vocab_rows)
    _check_range(entries, tokenizer, rows)
    warnings = check_manifest(entries, tokenizer)
    ids, numbers, repaired = _without_repeats(entries, tokenizer, dedupe)
    warnings += repaired
    ranked = entries.ranked
    if counts is not None:
        check_table(counts.table, tokenizer, name=counts.name, warn=warnings.append)
        ids, numbers, ranked = *_ranked_by(counts.table.totals(), ids, rows), True
    warnings += [*_padding_rows(ids, tokenizer), *_what_is_missing(ids, tokenizer, rows)]
    if not ranked:
        warnings.append(
            f"its ids are in ascending order, so the ranking is lost and {option('k')} cannot cut it; {option('counts')} "
            "restores it."
        )
    metadata = {
        "tokenizer": tokenizer.record() | {"model_rows": rows if rows_from != "tokenizer" else None, "forced": {}},
        "vocabulary_rows": rows,
        "vocabulary_rows_from": rows_from,
        "k": len(ids),
        "origin": {"imported": {"file": Path(entries.name).name, "format": entries.format}, "count_unit": "tokens"},
        "coverage": None,
        "held_out": None,
        "nested": ranked,
        "padded": 0,
        "sha256": storage.sha256_ids(ids),
    }
    tokens = tokens_bytes(tokenizer, ids.tolist())
    counted = np.zeros(len(ids), dtype=np.int64) if numbers is None else numbers.astype(np.int64)
    reasons = np.full(len(ids), FREQUENCY, dtype=np.int8)
    return Imported(
        VocabularySubset(ids.astype(np.int32), tokens, counted, reasons, metadata), entries, tuple(warnings)
    )


def _settled(entries: ForeignList, tokenizer: Tokenizer, vocab_rows: int | None, dedupe: bool) -> ForeignList:
    """The reading of a file with two: the one that its manifest describes, or the only one that fits the vocabulary.

    Raises `FrspecError` if both fit: which one is meant cannot be seen, and the wrong one would draft other tokens.
    """
    other = entries.otherwise
    if other is None or np.array_equal(entries.ids, other.ids):
        return entries
    if (described := described_reading(entries)) is not None:
        return described
    fitting = [each for each in (entries, other) if _fits(each, tokenizer, vocab_rows, dedupe)]
    if len(fitting) < 2:
        return fitting[0] if fitting else entries
    raise FrspecError(
        f"{entries.name} may hold {entries.reading} or {other.reading}, and both fit: the tokens would be "
        f"{_first(entries)} or {_first(other)}.",
        hint=f"Import it and say which: frspec import-vocab {entries.name} {option('as')} {entries.reading}, or "
        f"{option('as')} {other.reading}.",
    )


def _fits(entries: ForeignList, tokenizer: Tokenizer, vocab_rows: int | None, dedupe: bool) -> bool:
    try:
        _check_range(entries, tokenizer, _rows(entries, tokenizer, vocab_rows)[0])
        _without_repeats(entries, tokenizer, dedupe)
    except FrspecError:
        return False
    return True


def _first(entries: ForeignList, most: int = 4) -> str:
    return ", ".join(map(str, entries.ids[:most].tolist())) + (", ..." if len(entries.ids) > most else "")


def _padding_rows(ids: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """What is said about rows of the model past the tokenizer's last token; vLLM takes such a vocabulary too."""
    number = int((ids > tokenizer.highest_id).sum())
    if not number:
        return []
    last = tokenizer.highest_id
    return [f"{number} of its ids are rows of the model past the tokenizer's last token, {last}: no text needs them."]


def _ranked_by(totals: np.ndarray, ids: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids by (-count, id), and their counts. totals: int64 by id, as long as its tokenizer's vocabulary."""
    ids = np.sort(ids)
    counts = np.pad(totals, (0, max(0, rows - len(totals))))[ids]
    order = rank_by_count(counts)
    return ids[order], counts[order]


def _rows(entries: ForeignList, tokenizer: Tokenizer, given: int | None) -> tuple[int, str]:
    """The target's rows and who says so. A file's own number must agree with the model's."""
    if given is not None:
        known, origin = given, "option"
    elif tokenizer.model_rows is not None:
        known, origin = tokenizer.model_rows, "model"
    elif entries.vocabulary_rows is not None and entries.vocabulary_rows > tokenizer.highest_id:
        return entries.vocabulary_rows, "file"  # a model may have more rows than its tokenizer has tokens
    else:
        known, origin = tokenizer.highest_id + 1, "tokenizer"
    if entries.vocabulary_rows not in (None, known):
        what = "the model" if origin != "tokenizer" else tokenizer.reference
        raise FrspecError(
            f"{entries.name} was made for a vocabulary of {entries.vocabulary_rows} rows, but {what} has {known}.",
            hint=f"If it is the right one all the same, say so with {option('vocab_rows')} {entries.vocabulary_rows}.",
        )
    return known, origin


def _check_range(entries: ForeignList, tokenizer: Tokenizer, rows: int) -> None:
    outside = np.flatnonzero((entries.ids < 0) | (entries.ids >= rows))
    if len(outside):
        at = int(outside[0])
        raise FrspecError(
            f"{entries.name} holds the id {entries.ids[at]} (entry {at}), outside a vocabulary of {rows} rows"
            + (f", and {len(outside) - 1:,} more are outside it." if len(outside) > 1 else "."),
            hint=f"Is it for another model? Or does it hold offsets ({option('as')} offsets)?",
        )
    last = tokenizer.highest_id
    unknown = [index for index in entries.ids.tolist() if index <= last and index not in tokenizer.vocabulary]
    if unknown:
        raise FrspecError(f"{entries.name} holds the id {unknown[0]}, for which {tokenizer.reference} has no token.")


def _without_repeats(
    entries: ForeignList, tokenizer: Tokenizer, dedupe: bool
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """The ids, each once at its first place; a warning if that removed any."""
    _, first = np.unique(entries.ids, return_index=True)
    repeated = np.setdiff1d(np.arange(len(entries.ids)), first)
    if not len(repeated):
        return entries.ids, entries.counts, []
    kept = np.sort(first)
    at = int(repeated[0])
    index = int(entries.ids[at])
    earlier = int(np.flatnonzero(entries.ids == index)[0])
    repetition = f"the id {index} ({show_token(tokens_bytes(tokenizer, [index])[0])}) is at entries {earlier} and {at}"
    in_eos_block = at >= len(entries.ids) - LONGEST_EOS_BLOCK and all(
        i in tokenizer.added for i in entries.ids[at:].tolist()
    )
    if not dedupe and not in_eos_block:
        more = f", and {len(repeated) - 1} more repetitions follow" if len(repeated) > 1 else ""
        raise FrspecError(f"{entries.name}: {repetition}{more}.", hint=f"{option('dedupe')} keeps the first of each.")
    why = "the end-of-sequence block that FR-Spec's script appends" if in_eos_block else option("dedupe")
    dropped = "the later one is dropped" if len(repeated) == 1 else f"{len(repeated)} repetitions are dropped"
    warning = f"{entries.name}: {repetition} ({why}); {dropped}, {len(kept)} of {len(entries.ids)} entries remain."
    return entries.ids[kept], None if entries.counts is None else entries.counts[kept], [warning]


def _what_is_missing(ids: np.ndarray, tokenizer: Tokenizer, rows: int) -> list[str]:
    """Tokens that frspec would force in and the file lacks: without an end token the draft never proposes an end."""
    present = set(ids.tolist())
    missing = {i: kind for i, kind in tokenizer.forced_candidates.items() if i not in present and i < rows}
    warnings = []
    tokens = [
        f"{tokenizer.vocabulary[i]} ({i})"
        for i, kind in missing.items()
        if kind != "byte" and i in tokenizer.vocabulary
    ]
    if tokens:
        warnings.append(f"it lacks {', '.join(tokens[:8])}: a draft over it can never propose them.")
    if lacking := sum(kind == "byte" for kind in missing.values()):
        warnings.append(f"it lacks {lacking} of the {len(tokenizer.byte_token_ids)} byte tokens.")
    return warnings
