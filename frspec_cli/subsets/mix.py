"""One set of counts out of several tables and sources.

Without weights, counts are added. With `--mix NAME=W`, each name gets the share W / (sum of all W) of the mix, however
much text it had: a name's counts are divided by its own total. Sources without a weight are left out. A small weight
makes a source the tail: it orders what the others have hardly seen and leaves the top to them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from frspec_cli import storage
from frspec_cli.counting.table import FOLDS, FrequencyTable, sum_by_fold
from frspec_cli.errors import FrspecError

MIX_UNITS = 10**15  # a mix is counted in integers, too: units of 1e-15 of the whole, so that a sum over folds is exact


@dataclass(frozen=True)
class NamedTable:
    """A frequency table, the name it goes by (its file's, without suffix) and the sha256 of its file."""

    name: str
    table: FrequencyTable
    sha256: str

    @staticmethod
    def read(path: Path | str) -> NamedTable:
        """Reads a table from its file. Raises `FrspecError` as `FrequencyTable.read` does."""
        table = FrequencyTable.read(path)
        return NamedTable(Path(path).stem, table, storage.sha256_file(path))


@dataclass(frozen=True)
class Evidence:
    """What a subset is chosen from.

    parts: name -> int64 [FOLDS, rows], already weighted. weights: name -> its share of the mix, {} without a mix.
    left_out: names of sources that no weight was given for.
    """

    parts: Mapping[str, np.ndarray]
    weights: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def by_fold(self) -> np.ndarray:
        """int64 [FOLDS, rows]: all parts together."""
        return sum_by_fold(self.parts.values(), next(iter(self.parts.values())).shape[1])


def gather(tables: Sequence[NamedTable], weights: Mapping[str, float] | None = None) -> Evidence:
    """Adds or mixes the tables' counts.

    weights: name -> positive weight, a name being a table's, a source's label, or `table:source`.
    Raises `FrspecError` for tables of different tokenizers, for an unknown or ambiguous name, for a part named twice.
    """
    check_same_tokenizer(tables)
    every = {(named.name, source): index for index, named in enumerate(tables) for source in named.table.sources}
    rows = max(named.table.rows for named in tables)
    if not weights:
        labels = sorted({source for _, source in every})
        if len(tables) == 1:  # as it is: a large table is not copied
            return Evidence({label: tables[0].table.counts[label] for label in labels})
        return Evidence({label: _sum(tables, [pair for pair in every if pair[1] == label], rows) for label in labels})
    chosen = {name: _resolve(name, every) for name in weights}
    taken = [pair for pairs in chosen.values() for pair in pairs]
    if twice := sorted({pair for pair in taken if taken.count(pair) > 1}):
        raise FrspecError(f"--mix names the source {':'.join(twice[0])} twice.")
    whole = sum(weights.values())
    parts = {name: _share(_sum(tables, pairs, rows), weights[name] / whole, name) for name, pairs in chosen.items()}
    left_out = tuple(":".join(pair) if len(tables) > 1 else pair[1] for pair in every if pair not in taken)
    return Evidence(parts, {name: weight / whole for name, weight in weights.items()}, left_out)


def check_same_tokenizer(tables: Sequence[NamedTable]) -> None:
    """Raises `FrspecError` where two tables were counted with different tokenizers, or go by one name."""
    first = tables[0]
    for other in tables[1:]:
        if other.table.fingerprint != first.table.fingerprint:
            raise FrspecError(
                f"{first.name} and {other.name} were counted with different tokenizers "
                f"({_tokenizer(first)} and {_tokenizer(other)}).",
                hint="Count both with one tokenizer.",
            )
        if [named.name for named in tables].count(other.name) > 1:
            raise FrspecError(f"two of the tables are named {other.name}; rename one of the files.")


def _tokenizer(named: NamedTable) -> str:
    return f"{named.table.metadata['tokenizer']['reference']}, {named.table.fingerprint[:12]}"


def _resolve(name: str, every: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """The (table, source) pairs that a name in --mix means."""
    exact = [pair for pair in every if ":".join(pair) == name]
    tables = [pair for pair in every if pair[0] == name]
    labels = [pair for pair in every if pair[1] == name]
    if tables and labels and tables != labels:
        raise FrspecError(
            f"--mix {name} is the name of a table and of a source.", hint="Write TABLE:SOURCE for the sources you mean."
        )
    found = exact or tables or labels
    if not found:
        known = sorted({pair[1] for pair in every} | {pair[0] for pair in every})
        raise FrspecError(f"--mix names {name!r}, which is no table and no source; there are: {', '.join(known)}.")
    return found


def _sum(tables: Sequence[NamedTable], pairs: Collection[tuple[str, str]], rows: int) -> np.ndarray:
    by_name = {named.name: named.table for named in tables}
    total = np.zeros((FOLDS, rows), dtype=np.int64)
    for table, source in pairs:
        counts = by_name[table].counts[source]
        total[:, : counts.shape[1]] += counts
    return total


def _share(counts: np.ndarray, share: float, name: str) -> np.ndarray:
    """Counts as int64 units of the mix. What was seen keeps at least one unit."""
    total = int(counts.sum())
    if total == 0:
        raise FrspecError(f"--mix gives weight to {name}, which holds no tokens.")
    units = np.rint(counts * (share * MIX_UNITS / total)).astype(np.int64)
    return np.where(counts > 0, np.maximum(units, 1), 0)
