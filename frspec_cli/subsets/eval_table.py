"""What coverage is measured on: a frequency table, or text and answers that are counted on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from frspec_cli.counting.table import FOLDS, FrequencyTable
from frspec_cli.errors import FrspecError
from frspec_cli.subsets.build import Builder, Recipe
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.tokens.tokenizer import LoadedTokenizer

SOFT_UNITS = 1_000_000  # soft counts are sums of the target's probabilities, stored as whole millionths


@dataclass(frozen=True)
class Corpus:
    """Counts to cover. name: for tables and pictures. named: the table, with its file's sha256 ("" for counted text).

    soft: the counts are sums of probabilities in units of 1e-6, so coverage is probability mass.
    """

    name: str
    named: NamedTable

    @property
    def table(self) -> FrequencyTable:
        """The counts by source and fold."""
        return self.named.table

    @property
    def soft(self) -> bool:
        """Whether the table holds soft counts (metadata `kind: soft`)."""
        return self.table.metadata.get("kind") == "soft"

    @property
    def units(self) -> int:
        """Counts in one token (or position)."""
        return SOFT_UNITS if self.soft else 1

    def by_fold(self) -> np.ndarray:
        """int64 [FOLDS, rows], over all sources."""
        return self.table.by_fold()


def is_table(path: str) -> bool:
    """Whether `path` is a parquet file that frspec wrote as a frequency table (parquet may hold text, too)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return False
    return b"frspec" in (metadata.metadata or {}) and "fold" in metadata.names


def load_eval_table(on: str, tokenizer: Callable[[], str], *, say: Callable[[str], None] = lambda text: None) -> Corpus:
    """Reads a table, or counts a text or answers file with the tokenizer of that name (asked for only then).

    Raises `FrspecError` as reading and counting do.
    """
    if is_table(on):
        named = NamedTable.read(on)
        return Corpus(named.name, named)
    return _count(on, tokenizer(), say)


def _count(on: str, tokenizer: str, say: Callable[[str], None]) -> Corpus:
    from frspec_cli.corpus.sources import find_shards
    from frspec_cli.counting.count import count_corpus
    from frspec_cli.counting.options import CountOptions
    from frspec_cli.progress import Callbacks

    answers = holds_answers(on)
    say(f"counting {'the answers in ' if answers else ''}{on} ...")
    shards = find_shards([on], say=say)
    with tempfile.TemporaryDirectory(prefix="frspec-") as folder:
        options = CountOptions(assistant_only=answers)
        out = Path(folder) / "counts.parquet"
        table = count_corpus(shards, tokenizer, out, options=options, callbacks=Callbacks(say=say)).table
    if not table.metadata["tokens"]:
        raise FrspecError(f"{on} holds no tokens.")
    name = Path(on).name.split(".")[0] or on
    return Corpus(name, NamedTable(name, table, ""))


def holds_answers(path: str) -> bool:
    """Whether the first line of a file is a target's recorded answer: then only what was answered is counted."""
    from frspec_cli.subsets.describe import first_record

    record = first_record(path) if Path(path).is_file() else None
    return isinstance(record, dict) and "response_token_ids" in record


@dataclass(frozen=True)
class CoverageTarget:
    """A subset beside a corpus. how: `held out by fold`, `other text` or `in sample`. builder: for held out by fold."""

    name: str
    subset: VocabularySubset
    corpus: Corpus
    how: str
    builder: Builder | None = None

    def chosen(self, k: int) -> list[np.ndarray]:
        """For each fold the ids that cover it, in rank order. Raises `FrspecError` as `prefix` does."""
        ids = self.subset.prefix(k).token_ids.astype(np.int64)
        if self.builder is None:
            return [ids] * FOLDS
        return [self.builder.choose(k, without_fold=fold).token_ids for fold in range(FOLDS)]


def measure_on(
    name: str, subset: VocabularySubset, corpus: Corpus, others: Sequence[Corpus], tokenizer: LoadedTokenizer | None
) -> CoverageTarget:
    """Decides how a subset is measured on a corpus: where it was chosen from that very table, held out by fold.

    others: all corpora at hand; a subset mixed from several tables can be chosen again only if all are there.
    """
    origin = subset.metadata.get("origin", {})
    recorded = {table["sha256"]: table["name"] for table in origin.get("tables", [])}
    if corpus.named.sha256 not in recorded or not corpus.named.sha256:
        return CoverageTarget(name, subset, corpus, "other text")
    at_hand = {each.named.sha256: each.named for each in others}
    filled = int((corpus.by_fold().sum(axis=1) > 0).sum())
    if tokenizer is None or filled < 2 or any(sha256 not in at_hand for sha256 in recorded):
        return CoverageTarget(name, subset, corpus, "in sample")
    # What was forced and the rows are taken from the subset: this tokenizer may lie without its model's config.
    forced = tuple(int(index) for index in subset.metadata["tokenizer"]["forced"])
    recipe = replace(
        Recipe.from_json(origin["recipe"]),
        forced="none",
        force_ids=forced,
        vocabulary_rows=subset.metadata["vocabulary_rows"],
    )
    tables = [at_hand[sha256] for sha256 in recorded]
    renamed = [NamedTable(recorded[table.sha256], table.table, table.sha256) for table in tables]
    return CoverageTarget(name, subset, corpus, "held out by fold", Builder(renamed, tokenizer, recipe))


def missing_tables(subset: VocabularySubset, corpora: Sequence[Corpus]) -> list[str]:
    """Names of the tables that a subset was chosen from and that are not at hand."""
    at_hand = {corpus.named.sha256 for corpus in corpora}
    tables: list[Mapping[str, str]] = subset.metadata.get("origin", {}).get("tables", [])
    return [table["name"] for table in tables if table["sha256"] not in at_hand]
