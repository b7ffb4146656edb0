"""Frequency tables to subsets: gathers the evidence, says what is forced, chooses, and records where it came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from frspec_cli import storage
from frspec_cli.counting.table import FOLDS
from frspec_cli.errors import FrspecError
from frspec_cli.statistics import Interval, jackknife
from frspec_cli.subsets import choose, mix
from frspec_cli.subsets.choose import Budget, Choice, Ranking
from frspec_cli.subsets.scripts import Scripts
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.subsets.tokenizer_check import check_table
from frspec_cli.tokens.tokenizer import LoadedTokenizer

FORCED_KINDS = {"all": ("eos", "template", "byte"), "eos": ("eos",), "none": ()}


@dataclass(frozen=True)
class Recipe:
    """How a subset is chosen from tables; written into it, so that a held-out check can repeat it.

    weights: --mix. budgets: --script-budget, script -> rows. forced: a key of FORCED_KINDS. force_ids: --force-id.
    pad: fill by id. vocabulary_rows: of the model; None where only the tokenizer is known.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=dict)
    forced: str = "all"
    force_ids: tuple[int, ...] = ()
    pad: bool = False
    vocabulary_rows: int | None = None

    def as_json(self) -> dict[str, Any]:
        """What goes into a subset's metadata."""
        return {
            "mix": dict(self.weights),
            "script_budgets": dict(self.budgets),
            "forced": self.forced,
            "force_ids": list(self.force_ids),
            "pad": self.pad,
            "vocabulary_rows": self.vocabulary_rows,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Recipe:
        """The recipe in a subset's metadata."""
        return Recipe(
            weights=value["mix"],
            budgets=value["script_budgets"],
            forced=value["forced"],
            force_ids=tuple(value["force_ids"]),
            pad=value["pad"],
            vocabulary_rows=value["vocabulary_rows"],
        )


class Builder:
    """Chooses subsets of several sizes, or from some folds only, out of the same tables."""

    def __init__(
        self,
        tables: Sequence[mix.NamedTable],
        tokenizer: LoadedTokenizer,
        recipe: Recipe,
        *,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Raises `FrspecError` for tables that don't belong together or to the tokenizer, and for ids out of range."""
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
        """The k ids. A held-out ranking may be a little short of tokens, and is then filled by id."""
        pad = self.recipe.pad or without_fold is not None
        budgets = self._budgets(without_fold)
        return choose.choose(self.ranking(without_fold=without_fold), k, budgets=budgets, pad=pad)

    def held_out(self, k: int) -> Interval | None:
        """What k ids ranked by nine folds cover of the tenth, over all ten; None if fewer than two hold text."""
        if (self.by_fold.sum(axis=1) > 0).sum() < 2:
            return None
        covered = np.zeros(FOLDS)
        for fold in range(FOLDS):
            ids = self.choose(k, without_fold=fold).token_ids
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
            "nested": not self.recipe.budgets,
            "padded": choice.padded,
            "sha256": storage.sha256_ids(choice.token_ids),
        }
        ids = choice.token_ids.astype(np.int32)
        return VocabularySubset(ids, self.tokenizer.tokens_bytes(ids.tolist()), counts, choice.reasons, metadata)

    def budget_effects(self, k: int) -> list[dict[str, Any]]:
        """For each script budget: how much of the text in that script k ids cover, with the budgets and without.

        Held out by fold; the shares are None where fewer than two folds hold text.
        """
        tokens = {name: np.zeros(FOLDS) for name in self.recipe.budgets}
        covered = {name: np.zeros((2, FOLDS)) for name in self.recipe.budgets}
        for fold in range(FOLDS):
            subsets = [self.choose(k, without_fold=fold).token_ids, self.ranking(without_fold=fold).token_ids[:k]]
            parts = {name: _fit(part[fold], self.rows) for name, part in self.evidence.parts.items()}
            for name in self.recipe.budgets:
                scores = self._scripts.scores(name, parts)
                tokens[name][fold] = scores.sum()
                covered[name][:, fold] = [scores[ids].sum() for ids in subsets]
        effects = []
        for name, rows in self.recipe.budgets.items():
            total = tokens[name].sum()
            both = covered[name].sum(axis=1) / total if (tokens[name] > 0).sum() > 1 else (None, None)
            shares = {"coverage": both[0], "by_frequency": both[1]}
            effects.append({"script": name, "rows": rows, "tokens": int(total), **shares})
        return effects

    def smallest_covering(self, target: float) -> int:
        """The smallest k that covers `target` (0..1) of what was counted."""
        ranking = self.ranking()
        total = int(ranking.counts.sum())
        # Ids past the model's rows were counted but cannot be covered: the target is a share of everything counted.
        return choose.smallest_covering(ranking, target * self.counted / total if total else target)

    def _vocabulary_rows(self) -> tuple[int, str]:
        recorded = self.tables[0].table.metadata["tokenizer"].get("model_rows")
        for rows, origin in (
            (self.recipe.vocabulary_rows, "option"),
            (self.tokenizer.model_rows, "model"),
            (recorded, "model"),
        ):
            if rows is not None:
                return rows, origin
        return self.tokenizer.highest_id + 1, "tokenizer"

    def _forced(self) -> dict[int, str]:
        kinds = FORCED_KINDS[self.recipe.forced]
        recorded = self.tables[0].table.metadata["tokenizer"].get("forced") or {}
        candidates = {int(index): kind for index, kind in recorded.items()} | self.tokenizer.forced_candidates
        forced = {index: kind for index, kind in candidates.items() if kind in kinds and index < self.rows}
        for index in self.recipe.force_ids:
            if index >= self.rows or index not in self.tokenizer.vocabulary:
                raise FrspecError(f"--force-id {index} is no token of {self.tokenizer.reference} with a model row.")
            forced[index] = "option"
        return dict(sorted(forced.items()))

    def _budgets(self, without_fold: int | None) -> list[Budget]:
        if not self.recipe.budgets:
            return []
        folds = [fold for fold in range(FOLDS) if fold != without_fold]
        parts = {name: _fit(part[folds].sum(axis=0), self.rows) for name, part in self.evidence.parts.items()}
        return [Budget(name, rows, self._scripts.scores(name, parts)) for name, rows in self.recipe.budgets.items()]

    @cached_property
    def _scripts(self) -> Scripts:
        return Scripts.of(self.tokenizer, self.rows)

    def _origin(self) -> dict[str, Any]:
        tables = [
            {
                "name": named.name,
                "sha256": named.sha256,
                "documents": named.table.metadata.get("documents"),
                "sources": {source: int(named.table.counts[source].sum()) for source in named.table.sources},
            }
            for named in self.tables
        ]
        unit = f"1/{mix.MIX_UNITS} of the mix" if self.evidence.weights else "tokens"
        return {"tables": tables, "recipe": self.recipe.as_json(), "count_unit": unit}


def _fit(counts: np.ndarray, rows: int) -> np.ndarray:
    """Counts [..., n] as [..., rows]: cut, or followed by zeros."""
    kept = counts[..., :rows]
    missing = rows - kept.shape[-1]
    return np.pad(kept, [(0, 0)] * (kept.ndim - 1) + [(0, missing)]) if missing else kept


def is_share(value: float) -> bool:
    """Whether a number can be a coverage: above 0, at most 1."""
    return math.isfinite(value) and 0 < value <= 1


def output_paths(out: str, ks: Collection[int]) -> dict[int, str]:
    """k -> where its subset goes: `out` itself for one k, `out/subset-<k>.parquet` for several."""
    if len(ks) == 1:
        return dict.fromkeys(ks, out)
    return {k: f"{out.rstrip('/')}/subset-{k}.parquet" for k in ks}
