"""Frequency tables to subsets: gathers the evidence, says what is forced, chooses, and records where it came from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from frspec_cli import storage
from frspec_cli.counting.table import FOLDS
from frspec_cli.errors import FrspecError, UsageError, option
from frspec_cli.statistics import Interval, jackknife
from frspec_cli.subsets import choose, mix
from frspec_cli.subsets.choose import Budget, Choice, Ranking
from frspec_cli.subsets.recipe import FORCED_KINDS, Recipe
from frspec_cli.subsets.scripts import Scripts
from frspec_cli.subsets.shipped_tables import find_table, named_tokenizer
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.subsets.tokenizer_check import Tokenizer, check_table
from frspec_cli.tokens.tokenizer import load_tokenizer


def load_builder(
    paths: Sequence[Path],
    recipe: Recipe,
    *,
    tokenizer: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Builder:
    """Opens the tables.

    paths: none to take the table that ships for `tokenizer`.
    tokenizer: the name of a tokenizer or model, in place of the one recorded in the first table.
    say: called with a sentence about a shipped table that is taken.
    Raises `FrspecError` as reading, loading and `Builder` do, `UsageError` for neither a table nor a name.
    """
    if not paths:
        if tokenizer is None:
            raise UsageError(
                f"name a frequency table, or with {option('model')} a model for which one ships.",
                hint="`frspec count-freq` makes one of your own text.",
            )
        path, loaded = find_table(tokenizer, warn=warn)
        shipped = mix.NamedTable.read(path)
        say(_about(shipped, tokenizer))
        return Builder([shipped], loaded, recipe, warn=warn)
    tables = [mix.NamedTable.read(path) for path in paths]
    if tokenizer is not None:
        return Builder(tables, named_tokenizer(tokenizer), recipe, warn=warn)
    return Builder(tables, _recorded(tables[0]), recipe, warn=warn)


def _about(shipped: mix.NamedTable, name: str) -> str:
    """What a user should know of a table that was not asked for by its path."""
    metadata = shipped.table.metadata
    text = metadata.get("text") or f"{', '.join(shipped.table.sources)}."
    return (
        f"no table is named, so the one that ships for {name} is taken ({shipped.name}, {metadata['tokens']:,} tokens): {text} "
        "Text like your own makes a better subset: frspec count-freq."
    )


def _recorded(entry: mix.NamedTable) -> Tokenizer:
    """The tokenizer that counted a table: from its files, or as the table itself remembers it."""
    recorded = entry.table.metadata["tokenizer"]["reference"]
    if entry.table.tokenizers:
        return entry.table.tokenizers[0]
    try:
        return load_tokenizer(recorded)
    except FrspecError as error:
        raise FrspecError(
            f"the tokenizer that counted {entry.name}, {recorded}, cannot be loaded: {error.message}",
            hint=f"There is no {recorded} here: say where it is with {option('tokenizer')}, or {option('model')}.",
        ) from None


class Builder:
    """Chooses subsets of several sizes, or from some folds only, out of the same tables."""

    def __init__(
        self,
        tables: Sequence[mix.NamedTable],
        tokenizer: Tokenizer,
        recipe: Recipe,
        *,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Raises `FrspecError` for tables that do not belong together or to the tokenizer, and for ids out of range.

        warn: called with a sentence if the tokenizer is another file than the one that counted.
        """
        self.tables, self.tokenizer, self.recipe = tables, tokenizer, recipe
        self.evidence = mix.gather(tables, recipe.weights)
        check_table(tables[0].table, tokenizer, name=tables[0].name, warn=warn)
        self.rows, self.rows_from = self._vocabulary_rows()
        by_fold = self.evidence.by_fold()
        self.counted_by_fold = by_fold.sum(axis=1)
        self.by_fold = _fit(by_fold, self.rows)
        self.allowed = np.zeros(self.rows, dtype=bool)
        self.allowed[[index for index in tokenizer.vocabulary if index < self.rows]] = True
        self.forced = self._forced()
        self.counted = int(self.counted_by_fold.sum())
        self._rankings: dict[int | None, Ranking] = {}

    def ranking(self, *, without_fold: int | None = None) -> Ranking:
        """The ranking by all folds, or by all but one."""
        if without_fold not in self._rankings:
            counts = self.by_fold.sum(axis=0)
            if without_fold is not None:
                counts = counts - self.by_fold[without_fold]
            self._rankings[without_fold] = choose.rank(counts, forced=self.forced, allowed=self.allowed)
        return self._rankings[without_fold]

    def choose(self, k: int, *, without_fold: int | None = None) -> Choice:
        """The k ids. A held-out ranking may be a little short of tokens and is then filled up by id."""
        pad = self.recipe.pad or without_fold is not None
        budgets = self._budgets(without_fold)
        ranking = self.ranking(without_fold=without_fold)
        return choose.choose(ranking, k, budgets=budgets, pad=pad, shards=self.recipe.shards)

    @property
    def has_folds(self) -> bool:
        """Whether at least two folds hold text, so that some of it can be held out."""
        return int((self.by_fold.sum(axis=1) > 0).sum()) > 1

    def held_out(self, k: int, *, by_frequency: bool = False) -> Interval | None:
        """What k ids ranked by nine folds cover of the tenth, over all ten; None if fewer than two folds hold text.

        by_frequency: of the k most frequent, without budgets and shards.
        """
        if not self.has_folds:
            return None
        covered = np.zeros(FOLDS)
        for fold in range(FOLDS):
            ranked = self.ranking(without_fold=fold).token_ids[:k]
            ids = ranked if by_frequency else self.choose(k, without_fold=fold).token_ids
            covered[fold] = self.by_fold[fold, ids].sum()
        return jackknife(covered, self.counted_by_fold)

    def subset(self, k: int) -> VocabularySubset:
        """The artifact for one k. Raises `FrspecError` as `choose.choose` does."""
        choice = self.choose(k)
        counts = self.ranking().counts[choice.token_ids]
        covered = int(counts.sum()) / self.counted if self.counted else 0.0
        held_out = self.held_out(k)
        model_rows = self.rows if self.rows_from != "tokenizer" else None
        forced = {str(index): kind for index, kind in self.forced.items()}
        metadata = {
            "tokenizer": self.tokenizer.record() | {"model_rows": model_rows, "forced": forced},
            "vocabulary_rows": self.rows,
            "vocabulary_rows_from": self.rows_from,
            "k": k,
            "origin": self._origin(),
            "coverage": covered,
            "held_out": held_out.as_json() if held_out else None,
            "nested": self.recipe.nested,
            "padded": choice.padded,
            "sha256": storage.sha256_ids(choice.token_ids),
        }
        ids = choice.token_ids.astype(np.int32)
        return VocabularySubset(ids, self.tokenizer.tokens_bytes(ids.tolist()), counts, choice.reasons, metadata)

    def budget_effects(self, k: int) -> list[dict[str, Any]]:
        """For each script budget: what share of the text in that script k ids cover, with the budgets and without.

        Held out by fold; of a table without folds in sample (`held_out` says which).
        """
        tokens = {script: np.zeros(FOLDS) for script in self.recipe.budgets}
        covered = {script: np.zeros((2, FOLDS)) for script in self.recipe.budgets}  # with the budgets, by frequency
        for fold in range(FOLDS):
            without = fold if self.has_folds else None
            by_frequency = self.ranking(without_fold=without).token_ids[:k]
            choices = [self.choose(k, without_fold=without).token_ids, by_frequency]
            for script, scores in self._script_scores([fold]).items():
                tokens[script][fold] = scores.sum()
                covered[script][:, fold] = [scores[ids].sum() for ids in choices]
        effects = []
        for script, rows in self.recipe.budgets.items():
            shares = list(covered[script].sum(axis=1) / max(1, tokens[script].sum()))
            numbers = {"rows": rows, "tokens": int(tokens[script].sum()), "held_out": self.has_folds}
            effects.append({"script": script, **numbers, "coverage": shares[0], "by_frequency": shares[1]})
        return effects

    def shards_effect(self, k: int) -> dict[str, Any]:
        """What equal slices cost: the share that k ids cover with them and by frequency alone.

        Held out by fold; the shares are None if fewer than two folds hold text. `fullest` is the number of ids that the
        fullest slice would hold by frequency alone.
        """
        shards = self.recipe.shards
        with_shards, alone = self.held_out(k), self.held_out(k, by_frequency=True)
        slices = self.ranking().token_ids[:k] // (self.rows // shards)
        return {
            "shards": shards,
            "rows_each": k // shards,
            "coverage": with_shards.value if with_shards else None,
            "by_frequency": alone.value if alone else None,
            "fullest": int(np.bincount(slices).max()),
        }

    def smallest_covering(self, target: float) -> int:
        """The smallest k that covers `target` (0..1) of what was counted.

        Raises `UsageError` if the target is not a share, `FrspecError` if no k covers it.
        """
        if not 0 < target <= 1:
            raise UsageError(f"{option('coverage')} {target:g} must be above 0 and at most 1, such as 0.98.")
        if self.recipe.shards > 1:
            raise UsageError(f"{option('coverage')} does not go with {option('shards')}: give {option('k')}.")
        ranking = self.ranking()
        total = int(ranking.counts.sum())
        # Ids past the model's rows were counted but cannot be covered: the target is a share of everything counted.
        share = target * self.counted / total if total else target
        return self.recipe.rounded(choose.smallest_covering(ranking, share))

    def _vocabulary_rows(self) -> tuple[int, str]:
        recorded = self._recorded().get("model_rows")
        for rows, origin in (
            (self.recipe.vocabulary_rows, "option"),
            (self.tokenizer.model_rows, "model"),
            (recorded, "model"),
        ):
            if rows is not None:
                return rows, origin
        return self.tokenizer.highest_id + 1, "tokenizer"

    def _recorded(self) -> dict[str, Any]:
        """What the first table says of this tokenizer: it may name several that give its counts."""
        metadata = self.tables[0].table.metadata
        same = [each for each in metadata.get("also", []) if each["fingerprint"] == self.tokenizer.fingerprint]
        return same[0] if same else metadata["tokenizer"]

    def _forced(self) -> dict[int, str]:
        kinds = FORCED_KINDS[self.recipe.forced]
        recorded = self._recorded().get("forced") or {}
        candidates = {int(index): kind for index, kind in recorded.items()} | self.tokenizer.forced_candidates
        forced = {index: kind for index, kind in candidates.items() if kind in kinds and index < self.rows}
        for index in self.recipe.force_ids:
            if index >= self.rows or index not in self.tokenizer.vocabulary:
                raise FrspecError(
                    f"{option('force_id')} {index} is not a token of {self.tokenizer.reference} with a row in the model."
                )
            forced[index] = "option"
        return dict(sorted(forced.items()))

    def _budgets(self, without_fold: int | None) -> list[Budget]:
        scores = self._script_scores([fold for fold in range(FOLDS) if fold != without_fold])
        return [Budget(script, rows, scores[script]) for script, rows in self.recipe.budgets.items()]

    def _script_scores(self, folds: Sequence[int]) -> dict[str, np.ndarray]:
        """script -> int64 [rows], each token's count in the text of that script in the given folds; only budgets' ones."""
        if not self.recipe.budgets:
            return {}
        parts = {name: _fit(part[folds].sum(axis=0), self.rows) for name, part in self.evidence.parts.items()}
        return {script: self._scripts.scores(script, parts) for script in self.recipe.budgets}

    @cached_property
    def _scripts(self) -> Scripts:
        return Scripts.of(self.tokenizer, self.rows)

    def _origin(self) -> dict[str, Any]:
        tables = [
            {
                "name": entry.name,
                "sha256": entry.sha256,
                "documents": entry.table.metadata.get("documents"),
                "sources": {source: int(entry.table.counts[source].sum()) for source in entry.table.sources},
                "texts": sorted(entry.texts)[: mix.MOST_TEXTS],
            }
            for entry in self.tables
        ]
        unit = f"1/{mix.MIX_UNITS} of the mix" if self.evidence.weights else "tokens"
        return {"tables": tables, "recipe": self.recipe.as_json(), "count_unit": unit}


def _fit(counts: np.ndarray, rows: int) -> np.ndarray:
    """Counts [..., n] as [..., rows]: cut, or followed by zeros."""
    kept = counts[..., :rows]
    missing = rows - kept.shape[-1]
    return np.pad(kept, [(0, 0)] * (kept.ndim - 1) + [(0, missing)]) if missing else kept


def output_paths(out: str, ks: Collection[int]) -> dict[int, str]:
    """k -> the path of its subset: `out` itself for one k, `out/subset-<k>.parquet` for several."""
    if len(ks) == 1:
        return dict.fromkeys(ks, out)
    return {k: f"{out.rstrip('/')}/subset-{k}.parquet" for k in ks}
