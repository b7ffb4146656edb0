"""Counts to a choice of k token ids: forced ids first, then by (-count, id), exactly k of them.

Pure arrays in, pure arrays out. The order does not depend on k, so a smaller k is a prefix; a script budget breaks
that, because what it lets in depends on what k leaves out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from frspec_cli.counting.ranking import rank_by_count
from frspec_cli.errors import FrspecError, UsageError, option
from frspec_cli.subsets.subset import REASONS

FORCED, BUDGET, FREQUENCY = (REASONS.index(reason) for reason in ("forced", "budget", "frequency"))


@dataclass(frozen=True)
class Budget:
    """Rows kept for one script.

    name: as the user wrote it.
    rows: how many.
    scores: int64 [rows of the vocabulary], each token's count in text of that script, 0 if it does not belong to it.
    """

    name: str
    rows: int
    scores: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """Every id that may be chosen, best first.

    token_ids: int64 [n], the forced first, then the tokens that were seen, then the unseen ones by id.
    counts: int64 [rows of the vocabulary], by id.
    forced: number of forced ids.
    seen: number of ids that are forced or were seen.
    """

    token_ids: np.ndarray
    counts: np.ndarray
    forced: int
    seen: int


@dataclass(frozen=True)
class Choice:
    """k ids in rank order.

    token_ids: int64 [k].
    reasons: int8 [k], indices of REASONS.
    padded: number of ids that were never seen and are there only because padding was asked for.
    """

    token_ids: np.ndarray
    reasons: np.ndarray
    padded: int


def rank(counts: np.ndarray, *, forced: Collection[int], allowed: np.ndarray) -> Ranking:
    """Ranks the allowed ids by (-count, id), forced ones first.

    counts: int64 [rows].
    forced: ids; those that are not allowed are left out.
    allowed: bool [rows], the ids that the tokenizer has and the model has a row for.
    """
    ids = np.flatnonzero(allowed)
    order = ids[rank_by_count(counts[ids])]
    is_forced = np.zeros(len(counts), dtype=bool)
    is_forced[[index for index in forced if 0 <= index < len(counts)]] = True
    first, others = order[is_forced[order]], order[~is_forced[order]]
    seen = len(first) + int((counts[others] > 0).sum())
    return Ranking(np.concatenate([first, others]), counts, len(first), seen)


def choose(ranking: Ranking, k: int, *, budgets: Sequence[Budget] = (), pad: bool = False, shards: int = 1) -> Choice:
    """The subset of exactly k ids.

    shards: equal slices of the vocabulary, of which each gives k / shards ids.
    Raises `FrspecError` if k is below the number forced, above the vocabulary, above the number of tokens ever seen
    (unless `pad`), too small for the budgets, or not to be had from the slices.
    """
    _check_size(ranking, k, pad)
    selected, by_frequency = (np.zeros(len(ranking.counts), dtype=bool) for _ in range(2))
    by_frequency[ranking.token_ids[:k]] = True
    if shards > 1:
        selected[_from_slices(ranking, k, _required(ranking, k, budgets), shards, pad)] = True
    else:
        selected[_with_budgets(ranking, k, budgets) if budgets else ranking.token_ids[:k]] = True
    ids = ranking.token_ids[selected[ranking.token_ids]]  # back into rank order
    reasons = np.where(by_frequency[ids], FREQUENCY, BUDGET).astype(np.int8)
    reasons[: ranking.forced] = FORCED
    unseen = int((ranking.counts[ids[ranking.forced :]] == 0).sum())
    return Choice(ids, reasons, unseen)


def smallest_covering(ranking: Ranking, target: float) -> int:
    """The smallest k whose tokens are at least `target` (0..1) of all that was counted.

    Raises `FrspecError` if even all allowed tokens are not enough (ids past the model's rows were counted).
    """
    total = int(ranking.counts.sum())
    covered = np.cumsum(ranking.counts[ranking.token_ids[: ranking.seen]])
    # An exact comparison of integers: a share that equals the target must not fail by the last bit of a float.
    enough = np.flatnonzero(covered >= np.ceil(round(target * total, 6)))
    if total == 0 or not len(enough):
        best = covered[-1] / total if total else 0.0
        raise FrspecError(f"no subset covers {target:.2%} of what was counted: all allowed tokens cover {best:.2%}.")
    return max(int(enough[0]) + 1, ranking.forced, 1)


def _check_size(ranking: Ranking, k: int, pad: bool) -> None:
    if k < 1:
        raise UsageError(f"{option('k')} must be at least 1.")
    if k > len(ranking.token_ids):
        raise FrspecError(f"k {k:,} is larger than the vocabulary, which has {len(ranking.token_ids):,} usable tokens.")
    if k < ranking.forced:
        raise FrspecError(
            f"k {k:,} is smaller than the {ranking.forced:,} tokens that are forced in.",
            hint=f"Choose a larger k, or force fewer: {option('forced')} eos, or {option('forced')} none.",
        )
    if k > ranking.seen and not pad:
        raise FrspecError(
            f"k {k:,} asks for more tokens than were seen: only {ranking.seen:,} distinct ones, forced included.",
            hint=f"Count more text, choose {option('k')} {ranking.seen}, or let {option('pad')} fill the rest by id.",
        )


def _with_budgets(ranking: Ranking, k: int, budgets: Sequence[Budget]) -> np.ndarray:
    """The k ids of forced + each budget's best + the rest by frequency, in no particular order."""
    required = _required(ranking, k, budgets)
    rest = ranking.token_ids[~required[ranking.token_ids]][: k - int(required.sum())]
    return np.concatenate([np.flatnonzero(required), rest])


def _required(ranking: Ranking, k: int, budgets: Sequence[Budget]) -> np.ndarray:
    """bool [rows of the vocabulary]: the forced ids and each budget's best."""
    required = np.zeros(len(ranking.counts), dtype=bool)
    required[ranking.token_ids[: ranking.forced]] = True
    usable = ranking.token_ids[ranking.forced :]
    for budget in budgets:
        candidates = usable[budget.scores[usable] > 0]
        if len(candidates) < budget.rows:
            raise FrspecError(
                f"the script budget {budget.name}={budget.rows} asks for more than the {len(candidates)} tokens of that "
                "script that were seen.",
                hint=f"Count text in that script too, or write {option('script_budget')} {budget.name}={len(candidates)}.",
            )
        required[candidates[rank_by_count(budget.scores[candidates])[: budget.rows]]] = True
    if (needed := int(required.sum())) > k:
        raise FrspecError(f"k {k} is too small: forced tokens and script budgets need {needed} rows.")
    return required


def _from_slices(ranking: Ranking, k: int, required: np.ndarray, shards: int, pad: bool) -> np.ndarray:
    """The k ids: of each slice those that are required, then its most frequent, k / shards in all."""
    rows = len(ranking.counts)
    if rows % shards:
        raise FrspecError(
            f"a vocabulary of {rows} rows cannot be cut into {shards} equal slices.",
            hint=f"Engines pad it: name the padded number of rows with {option('vocab_rows')}.",
        )
    if k % shards:
        raise FrspecError(f"k {k} cannot be divided among {shards} slices.")
    each, width = k // shards, rows // shards
    usable = ranking.token_ids if pad else ranking.token_ids[: ranking.seen]
    ids = []
    for part in range(shards):
        own = usable[usable // width == part]
        own = np.concatenate([own[required[own]], own[~required[own]]])
        where = f"slice {part + 1} of {shards} (ids {part * width} to {(part + 1) * width - 1})"
        if (needed := int(required[own].sum())) > each:
            raise FrspecError(f"k {k} gives {each} rows to {where}, where forced tokens and budgets need {needed}.")
        if len(own) < each:
            padded = "" if pad else f", or let {option('pad')} fill it up by id"
            raise FrspecError(
                f"k {k} asks for {each} tokens of {where}, which has only {len(own)}"
                + ("." if pad else " that were seen."),
                hint=f"Choose {option('k')} {len(own) * shards} or less{padded}.",
            )
        ids.append(own[:each])
    return np.concatenate(ids)
