"""One subset on one table: whether it was chosen from that table, what it covers of it, and its curve."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from frspec_cli.counting.table import FOLDS
from frspec_cli.errors import FrspecError
from frspec_cli.subsets.build import Builder
from frspec_cli.subsets.choose import FORCED
from frspec_cli.subsets.coverage import CoverageRow, Curve, coverage_rows, curve, most_frequent_lost, rarest_kept
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.recipe import Recipe
from frspec_cli.subsets.scripts import Scripts
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.subsets.tokenizer_check import Tokenizer

HELD_OUT, OTHER_TEXT, IN_SAMPLE = "held out by fold", "other text", "in sample"
SMALLEST_DRAWN = 0.05
"""The share of the tokens from which on a source is drawn: smaller ones have wide bands that hide the rest."""


@dataclass(frozen=True)
class Evaluation:
    """A subset and the table that it is measured on.

    name: the subset's, for tables and pictures.
    how: `held out by fold`, `other text` or `in sample`.
    known: the share of the tokens that is text which the subset was chosen from; of another table than its own.
    builder: chooses the ids of each fold from the other nine; None unless held out by fold.
    """

    name: str
    subset: VocabularySubset
    table: NamedTable
    how: str
    builder: Builder | None = None
    known: float = 0.0

    def ids_by_fold(self, k: int) -> list[np.ndarray]:
        """For each fold the ids that cover it, in rank order. Raises `FrspecError` as `prefix` does."""
        ids = self.subset.prefix(k).token_ids.astype(np.int64)
        if self.builder is None:
            return [ids] * FOLDS
        return [self.builder.choose(k, without_fold=fold).token_ids for fold in range(FOLDS)]

    def rows(self, ks: Sequence[int], scripts: Scripts | None) -> list[CoverageRow]:
        """What the first k ids cover, for each k, by source and script."""
        return coverage_rows({k: self.ids_by_fold(k) for k in ks}, self.table.table.counts, scripts)

    def extremes(self, k: int, most: int) -> dict[str, list[tuple[int, int]]]:
        """The rarest tokens that the first k ids keep (forced ones aside) and the most frequent that they lose.

        Returns {"rarest_kept": [(id, count), ...], "lost": [(id, count), ...]}, at most `most` of each.
        """
        prefix = self.subset.prefix(k)
        ids = prefix.token_ids.astype(np.int64)
        counts = self.table.table.totals()
        return {
            "rarest_kept": rarest_kept(ids[prefix.reasons != FORCED], counts, most),
            "lost": most_frequent_lost(ids, counts, most),
        }

    def curve(self, label: str, counts: np.ndarray) -> Curve:
        """Coverage against k of counts (int64 [FOLDS, rows]), which are the table's or a part of it."""
        # It begins past the forced tokens, which come first and may never occur (256 byte tokens).
        first = max(128, 2 * self.subset.forced)
        return curve(label, self.ids_by_fold(self.subset.k), counts, first=first)


def evaluate(
    name: str,
    subset: VocabularySubset,
    table: NamedTable,
    tables: Sequence[NamedTable],
    tokenizer: Tokenizer | None,
) -> Evaluation:
    """Decides how a subset is measured on a table: held out by fold if it was chosen from that very table.

    tables: all that are open; a subset mixed from several can be chosen again only if all of them are there.
    tokenizer: the one that counted; None if it cannot be loaded.
    """
    origin = subset.metadata.get("origin", {})
    names = {recorded["sha256"]: recorded["name"] for recorded in origin.get("tables", [])}
    if table.sha256 not in names or not table.sha256:
        known = _known_share(subset, table)
        return Evaluation(name, subset, table, IN_SAMPLE if known else OTHER_TEXT, known=known)
    by_sha256 = {each.sha256: each for each in tables}
    folds_with_text = sum(1 for tokens in table.table.by_fold().sum(axis=1) if tokens)
    if tokenizer is None or folds_with_text < 2 or any(sha256 not in by_sha256 for sha256 in names):
        return Evaluation(name, subset, table, IN_SAMPLE)
    # What was forced and the rows come from the subset: this tokenizer may be without its model's config.
    recipe = replace(
        Recipe.from_json(origin["recipe"]),
        forced="none",
        force_ids=tuple(int(index) for index in subset.metadata["tokenizer"].get("forced") or {}),
        vocabulary_rows=subset.metadata["vocabulary_rows"],
    )
    renamed = [replace(by_sha256[sha256], name=recorded) for sha256, recorded in names.items()]
    return Evaluation(name, subset, table, HELD_OUT, Builder(renamed, tokenizer, recipe))


def _known_share(subset: VocabularySubset, table: NamedTable) -> float:
    """The share of the table's tokens that is text of which a digest stands in the subset's origin."""
    tables = subset.metadata.get("origin", {}).get("tables", [])
    chosen_from = {digest for each in tables for digest in each.get("texts", [])}
    texts = table.texts
    return sum(texts[digest] for digest in texts.keys() & chosen_from) / max(1, sum(texts.values()))


def missing_tables(subset: VocabularySubset, tables: Collection[NamedTable]) -> list[str]:
    """Names of the tables that a subset was chosen from and that are not among `tables`."""
    available = {table.sha256 for table in tables}
    recorded: list[Mapping[str, str]] = subset.metadata.get("origin", {}).get("tables", [])
    return [table["name"] for table in recorded if table["sha256"] not in available]


def curves(evaluations: Sequence[Evaluation]) -> list[Curve]:
    """Coverage against k, one line for each evaluation; of a single one also a line for each of its larger sources.

    Raises `FrspecError` for a subset whose smaller sizes are not prefixes.
    """
    for each in evaluations:
        if not each.subset.metadata.get("nested", True):
            raise FrspecError(f"{each.name} has no smaller sizes to draw: its order is not by frequency alone.")
    if len(evaluations) == 1:
        return _by_source(evaluations[0])
    several = len({each.name for each in evaluations}) > 1
    labels = [f"{f'{each.name} on ' * several}{each.table.name}, {each.how}" for each in evaluations]
    return [each.curve(label, each.table.table.by_fold()) for label, each in zip(labels, evaluations, strict=True)]


def _by_source(evaluation: Evaluation) -> list[Curve]:
    table, how = evaluation.table.table, evaluation.how
    if len(table.counts) == 1:
        return [evaluation.curve(f"{evaluation.table.name}, {how}", table.by_fold())]
    whole = evaluation.curve(f"all of {evaluation.table.name}, {how}", table.by_fold())
    shares = {name: float(counts.sum() / max(1, table.totals().sum())) for name, counts in table.counts.items()}
    drawn = [name for name in table.sources if shares[name] >= SMALLEST_DRAWN]
    if len(drawn) < 2:  # one source that is nearly all of it would lie on the whole
        return [replace(whole, leads=True)]
    return [replace(whole, leads=True), *(evaluation.curve(name, table.counts[name]) for name in drawn)]
