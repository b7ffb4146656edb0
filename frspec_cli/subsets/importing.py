"""A foreign list to a subset: in range, of this vocabulary, each id once, and what a user should know about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from frspec_cli import storage
from frspec_cli.errors import FrspecError
from frspec_cli.subsets.choose import FREQUENCY
from frspec_cli.subsets.foreign import ForeignList
from frspec_cli.subsets.foreign_write import manifest_path, tokens_sha256
from frspec_cli.subsets.subset import VocabularySubset, show_token
from frspec_cli.tokens.tokenizer import LoadedTokenizer

LONGEST_EOS_BLOCK = 4  # FR-Spec's script appends `tokenizer.encode(eos_token)`: a BOS, an EOS, hardly more


@dataclass(frozen=True)
class Imported:
    """A subset, and the warnings about the file that it came from."""

    subset: VocabularySubset
    warnings: tuple[str, ...]


def import_list(
    found: ForeignList,
    tokenizer: LoadedTokenizer,
    *,
    vocabulary_rows: int | None = None,
    dedupe: bool = False,
    counts: np.ndarray | None = None,
) -> Imported:
    """Makes a subset of a foreign list.

    vocabulary_rows: the target's, in place of what file or tokenizer tell. dedupe: drop later repetitions of any id.
    counts: int64 by id; ranks the ids anew, by (-count, id), for a file that has lost its ranking.
    Raises `FrspecError` for ids out of range or unknown to the tokenizer, for repeated ids, and for a file that is not
    the one that its manifest describes.
    """
    rows, origin = _rows(found, tokenizer, vocabulary_rows)
    _check_range(found, tokenizer, rows)
    warnings = list(found.notes)
    _check_manifest(found, tokenizer, warnings)
    ids, numbers, repaired = _without_repeats(found, tokenizer, dedupe)
    warnings += repaired
    ranked = found.ranked
    if counts is not None:
        numbers = np.pad(counts, (0, max(0, rows - len(counts))))[ids]
        order = np.lexsort((ids, -numbers))
        ids, numbers, ranked = ids[order], numbers[order], True
    warnings += _what_is_missing(ids, tokenizer, rows)
    if not ranked:
        warnings.append(
            "its ids are in ascending order, so the ranking is lost and --k cannot cut it; --counts restores it."
        )
    return Imported(_subset(found, tokenizer, ids, numbers, ranked, (rows, origin)), tuple(warnings))


def _subset(
    found: ForeignList,
    tokenizer: LoadedTokenizer,
    ids: np.ndarray,
    numbers: np.ndarray | None,
    ranked: bool,
    rows: tuple[int, str],
) -> VocabularySubset:
    described: dict[str, Any] = {
        "reference": tokenizer.reference,
        "fingerprint": tokenizer.fingerprint,
        "size": tokenizer.size,
        "highest_id": tokenizer.highest_id,
        "model_rows": rows[0] if rows[1] != "tokenizer" else None,
        "forced": {},
    }
    metadata = {
        "tokenizer": described,
        "vocabulary_rows": rows[0],
        "vocabulary_rows_from": rows[1],
        "k": len(ids),
        "origin": {"imported": {"file": Path(found.name).name, "format": found.format}, "count_unit": "tokens"},
        "coverage": None,
        "held_out": None,
        "nested": ranked,
        "padded": 0,
        "sha256": storage.sha256_ids(ids),
    }
    tokens = [tokenizer.token_bytes(index) for index in ids.tolist()]
    counts = np.zeros(len(ids), dtype=np.int64) if numbers is None else numbers.astype(np.int64)
    reasons = np.full(len(ids), FREQUENCY, dtype=np.int8)
    return VocabularySubset(ids.astype(np.int32), tokens, counts, reasons, metadata)


def _rows(found: ForeignList, tokenizer: LoadedTokenizer, given: int | None) -> tuple[int, str]:
    """The target's rows and who says so. A file's own number must agree with the model's."""
    if given is not None:
        known, origin = given, "option"
    elif tokenizer.model_rows is not None:
        known, origin = tokenizer.model_rows, "model"
    elif found.vocabulary_rows is not None and found.vocabulary_rows > tokenizer.highest_id:
        return found.vocabulary_rows, "file"  # a model may have more rows than its tokenizer has tokens
    else:
        known, origin = tokenizer.highest_id + 1, "tokenizer"
    if found.vocabulary_rows not in (None, known):
        what = "the model" if origin != "tokenizer" else tokenizer.reference
        raise FrspecError(
            f"{found.name} was made for a vocabulary of {found.vocabulary_rows} rows, but {what} has {known}.",
            hint=f"If it is the right one all the same, say so with --vocab-rows {found.vocabulary_rows}.",
        )
    return known, origin


def _check_range(found: ForeignList, tokenizer: LoadedTokenizer, rows: int) -> None:
    outside = np.flatnonzero((found.ids < 0) | (found.ids >= rows))
    if len(outside):
        at = int(outside[0])
        raise FrspecError(
            f"{found.name} holds the id {found.ids[at]} (entry {at}), outside a vocabulary of {rows} rows"
            + (f"; so do {len(outside) - 1} more." if len(outside) > 1 else "."),
            hint="Is it for another model? Or does it hold offsets (--as offsets)?",
        )
    unknown = [index for index in found.ids.tolist() if index not in tokenizer.vocabulary]
    if unknown:
        raise FrspecError(f"{found.name} holds the id {unknown[0]}, for which {tokenizer.reference} has no token.")


def _without_repeats(
    found: ForeignList, tokenizer: LoadedTokenizer, dedupe: bool
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """The ids, each once at its first place; a warning where that took something away."""
    _, first = np.unique(found.ids, return_index=True)
    repeated = np.setdiff1d(np.arange(len(found.ids)), first)
    if not len(repeated):
        return found.ids, found.counts, []
    kept = np.sort(first)
    at = int(repeated[0])
    index = int(found.ids[at])
    earlier = int(np.flatnonzero(found.ids == index)[0])
    shown = f"the id {index} ({show_token(tokenizer.token_bytes(index))}) stands at entries {earlier} and {at}"
    in_eos_block = at >= len(found.ids) - LONGEST_EOS_BLOCK and all(
        i in tokenizer.added for i in found.ids[at:].tolist()
    )
    if not dedupe and not in_eos_block:
        more = f", and {len(repeated) - 1} more repetitions follow" if len(repeated) > 1 else ""
        raise FrspecError(f"{found.name}: {shown}{more}.", hint="--dedupe keeps the first of each.")
    why = "the end-of-sequence block that FR-Spec's script appends" if in_eos_block else "--dedupe"
    dropped = "the later one is dropped" if len(repeated) == 1 else f"{len(repeated)} repetitions are dropped"
    warning = f"{found.name}: {shown} ({why}); {dropped}, {len(kept)} of {len(found.ids)} entries remain."
    return found.ids[kept], None if found.counts is None else found.counts[kept], [warning]


def _what_is_missing(ids: np.ndarray, tokenizer: LoadedTokenizer, rows: int) -> list[str]:
    """Tokens that frspec would force in and the file lacks: without an end token the draft never proposes an end."""
    have = set(ids.tolist())
    missing = {i: kind for i, kind in tokenizer.forced_candidates.items() if i not in have and i < rows}
    said = []
    named = [
        f"{tokenizer.vocabulary[i]} ({i})"
        for i, kind in missing.items()
        if kind != "byte" and i in tokenizer.vocabulary
    ]
    if named:
        said.append(f"it lacks {', '.join(named[:8])}: a draft over it can never propose them.")
    if lacking := sum(kind == "byte" for kind in missing.values()):
        said.append(f"it lacks {lacking} of the {len(tokenizer.byte_token_ids)} byte tokens.")
    return said


def _check_manifest(found: ForeignList, tokenizer: LoadedTokenizer, warnings: list[str]) -> None:
    """Our own exports say what they hold: a file that was exchanged for another of equal size must not pass."""
    path = manifest_path(found.name)
    if not path.is_file():
        return
    manifest = storage.read_json(path)
    if manifest.get("sha256") != storage.sha256_ids(found.ids):
        raise FrspecError(
            f"{found.name} does not hold the ids that its manifest {path.name} describes.",
            hint="It was changed or exchanged after the export: export it again, or remove the manifest.",
        )
    recorded = manifest.get("tokenizer", {})
    if recorded.get("fingerprint") == tokenizer.fingerprint:
        return
    both = f"{recorded.get('reference')} and {tokenizer.reference}"
    if manifest.get("tokens_sha256") != tokens_sha256({i: tokenizer.token_bytes(i) for i in set(found.ids.tolist())}):
        raise FrspecError(f"{found.name} was exported for another tokenizer: {both} differ in its ids.")
    warnings.append(f"the tokenizers {both} differ, but all its ids mean the same bytes in both.")
