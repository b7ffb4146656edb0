"""One set of counts out of several tables and sources.

Without weights, counts are added. With weights, each name gets the share W / (sum of all W) of the mix, however much text
it had: a name's counts are divided by its own total. Sources without a weight are left out. A small weight makes a source
the tail: it orders what the others have hardly seen and leaves the top to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from frspec_cli import storage
from frspec_cli.counting.merge import check_split_rules
from frspec_cli.counting.table import FOLDS, FrequencyTable, sum_by_fold
from frspec_cli.errors import FrspecError, option

MIX_UNITS = 10**15  # a mix is counted in integers, too: units of 1e-15 of the whole, so that a sum over folds is exact
MOST_TEXTS = 256
"""Digests of its text that a subset keeps for each table, the smallest: of a corpus of more pieces a fair sample."""
_DIGEST_LENGTH = 16


@dataclass(frozen=True)
class NamedTable:
    """A frequency table with a name.

    name: its file's, without suffix.
    sha256: of its file; "" if it was counted just now and has none.
    """

    name: str
    table: FrequencyTable
    sha256: str

    @staticmethod
    def read(path: Path | str) -> NamedTable:
        """Reads a table from its file. Raises `FrspecError` as `FrequencyTable.read` does."""
        table = FrequencyTable.read(path)
        return NamedTable(Path(path).stem, table, storage.sha256_file(path))

    @property
    def texts(self) -> dict[str, int]:
        """The tokens of each piece of text by its digest; pieces that a limit cut have none."""
        tokens: Counter[str] = Counter()
        for shard in self.table.metadata.get("shards") or []:
            if shard["sha256"] and shard["tokens"]:
                tokens[shard["sha256"][:_DIGEST_LENGTH]] += shard["tokens"]
        return dict(tokens)


@dataclass(frozen=True)
class Evidence:
    """What a subset is chosen from.

    parts: name -> int64 [FOLDS, rows], already weighted.
    weights: name -> its share of the mix; empty without a mix.
    left_out: names of sources that have no weight.
    """

    parts: Mapping[str, np.ndarray]
    weights: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def by_fold(self) -> np.ndarray:
        """int64 [FOLDS, rows]: all parts together."""
        return sum_by_fold(self.parts.values(), next(iter(self.parts.values())).shape[1])


def gather(tables: Sequence[NamedTable], weights: Mapping[str, float] | None = None) -> Evidence:
    """Adds or mixes the tables' counts.

    weights: name -> positive weight; a name is a table's, a source's label, or `table:source`.
    Raises `FrspecError` for tables of different tokenizers, an unknown or ambiguous name, and a part that is named twice.
    """
    check_same_tokenizer(tables)
    pairs = [(entry.name, source) for entry in tables for source in entry.table.sources]
    if not pairs:
        raise FrspecError(
            f"{' and '.join(entry.name for entry in tables)} holds no counts: there is nothing to choose from."
        )
    if not weights:
        if len(tables) == 1:  # as it is: a large table is not copied
            return Evidence({source: tables[0].table.counts[source] for source in tables[0].table.sources})
        labels = sorted({source for _, source in pairs})
        return Evidence({label: _sum(tables, [pair for pair in pairs if pair[1] == label]) for label in labels})
    pairs_of = {name: _resolve(name, pairs) for name in weights}
    weighted = [pair for some in pairs_of.values() for pair in some]
    if twice := sorted({pair for pair in weighted if weighted.count(pair) > 1}):
        raise FrspecError(f"{option('mix')} names the source {':'.join(twice[0])} twice.")
    whole = sum(weights.values())
    parts = {name: _scaled(_sum(tables, some), weights[name] / whole, name) for name, some in pairs_of.items()}
    left_out = tuple(":".join(pair) if len(tables) > 1 else pair[1] for pair in pairs if pair not in weighted)
    return Evidence(parts, {name: weight / whole for name, weight in weights.items()}, left_out)


def check_same_tokenizer(tables: Sequence[NamedTable]) -> None:
    """Raises `FrspecError` if two tables were counted with different tokenizers, or have the same name."""
    first, names = tables[0], [entry.name for entry in tables]
    for other in tables[1:]:
        if other.table.fingerprint != first.table.fingerprint:
            raise FrspecError(
                f"{first.name} and {other.name} were counted with different tokenizers "
                f"({_tokenizer(first)} and {_tokenizer(other)}).",
                hint="Count both with one tokenizer.",
            )
        check_split_rules(first.table, other.table, names=(first.name, other.name))
        if names.count(other.name) > 1:
            raise FrspecError(f"two of the tables are named {other.name}; rename one of the files.")


def _tokenizer(entry: NamedTable) -> str:
    return f"{entry.table.metadata['tokenizer']['reference']}, {entry.table.fingerprint[:12]}"


def _resolve(name: str, pairs: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """The (table, source) pairs that a name in the mix means."""
    exact = [pair for pair in pairs if ":".join(pair) == name]
    by_table = [pair for pair in pairs if pair[0] == name]
    by_label = [pair for pair in pairs if pair[1] == name]
    if by_table and by_label and by_table != by_label:
        raise FrspecError(
            f"{option('mix')} {name} is the name of a table and of a source.",
            hint="Write TABLE:SOURCE for the sources you mean.",
        )
    matches = exact or by_table or by_label
    if not matches:
        known = ", ".join(sorted({part for pair in pairs for part in pair}))
        raise FrspecError(f"{option('mix')} names {name!r}, which is neither a table nor a source; available: {known}.")
    return matches


def _sum(tables: Sequence[NamedTable], pairs: Collection[tuple[str, str]]) -> np.ndarray:
    """int64 [FOLDS, rows]: the counts of the (table, source) pairs, as long as the longest table's."""
    by_name = {entry.name: entry.table for entry in tables}
    total = np.zeros((FOLDS, max(entry.table.rows for entry in tables)), dtype=np.int64)
    for table, source in pairs:
        counts = by_name[table].counts[source]
        total[:, : counts.shape[1]] += counts
    return total


def _scaled(counts: np.ndarray, share: float, name: str) -> np.ndarray:
    """Counts as int64 units of the mix that add up to `share`. What was seen keeps at least one unit."""
    total = int(counts.sum())
    if total == 0:
        raise FrspecError(f"{option('mix')} gives weight to {name}, which holds no tokens.")
    units = np.rint(counts * (share * MIX_UNITS / total)).astype(np.int64)
    return np.where(counts > 0, np.maximum(units, 1), 0)
