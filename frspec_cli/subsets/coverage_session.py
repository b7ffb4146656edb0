"""Subsets beside corpora: opens both, checks that they speak of the same tokens, and measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.subsets.coverage import Curve, Row, coverage_rows, curve
from frspec_cli.subsets.eval_table import Corpus, CoverageTarget, load_eval_table, measure_on, missing_tables
from frspec_cli.subsets.load import load_subset
from frspec_cli.subsets.scripts import Scripts
from frspec_cli.subsets.subset import show_token
from frspec_cli.subsets.tokenizer_check import check_subset
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer


class CoverageSession:
    """Tokenizers and scripts, each loaded once and only if something needs them."""

    def __init__(
        self,
        *,
        tokenizer: str | None = None,
        mass: bool = False,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        """tokenizer: its name, in place of the recorded ones. mass: the tables must hold soft counts."""
        self.name, self.mass, self.say, self.warn = tokenizer, mass, say, warn
        self._failed: set[str] = set()
        self._tokenizers: dict[str, LoadedTokenizer] = {}
        self._scripts: dict[str, Scripts] = {}

    def load(self, name: str) -> LoadedTokenizer:
        """The tokenizer of that name. Raises `FrspecError` as `load_tokenizer` does."""
        if name not in self._tokenizers:
            self._tokenizers[name] = load_tokenizer(name)
        return self._tokenizers[name]

    def open(self, on: list[str], subsets: list[Path]) -> list[Corpus]:
        """Every --on, counted where it is text. Raises `UsageError` where --mass and the tables don't agree."""
        corpora = [load_eval_table(each, lambda: self._for_text(subsets), say=self.say) for each in on]
        for corpus in corpora:
            if self.mass and not corpus.soft:
                raise UsageError(f"{corpus.name} holds counts of tokens, not the soft counts that --mass asks for.")
            if corpus.soft and not self.mass:
                raise UsageError(
                    f"{corpus.name} holds soft counts.", hint="Add --mass: coverage is then probability mass."
                )
        return corpora

    def measure(self, path: Path, corpus: Corpus, corpora: list[Corpus]) -> CoverageTarget:
        """The subset beside the corpus. Raises `FrspecError` where their tokenizers differ."""
        theirs = self._of(corpus)
        subset = load_subset(path, tokenizer=theirs, warn=self.warn)
        if theirs is None and subset.fingerprint != corpus.table.fingerprint:
            check_subset(subset, self.load(self._recorded(corpus)), name=str(path), warn=self.warn)
        measured = measure_on(path.stem, subset, corpus, corpora, theirs)
        if measured.how == "in sample":
            missing = missing_tables(subset, corpora)
            why = (
                f"it was also chosen from {', '.join(missing)}: add --on for it"
                if missing
                else "too little to hold out"
            )
            self.warn(f"{path} was chosen from {corpus.name} itself, so its coverage is flattered ({why}).")
        return measured

    def rows(self, measured: CoverageTarget, ks: Sequence[int]) -> list[Row]:
        """The shares for each k."""
        counts = measured.corpus.table.counts
        units = measured.corpus.units
        rows = coverage_rows({k: measured.chosen(k) for k in ks}, counts, self.scripts(measured.corpus))
        return [replace(row, tokens=round(row.tokens / units)) for row in rows]

    def scripts(self, corpus: Corpus) -> Scripts | None:
        """Every token's script; None where the table's tokenizer cannot be loaded."""
        loaded = self._of(corpus)
        if loaded is None:
            return None
        if loaded.fingerprint not in self._scripts:
            self._scripts[loaded.fingerprint] = Scripts.of(loaded, loaded.highest_id + 1)
        return self._scripts[loaded.fingerprint]

    def token(self, corpus: Corpus, index: int) -> str:
        """A token as a person reads it, or its id where the tokenizer is not at hand."""
        loaded = self._of(corpus)
        return show_token(loaded.token_bytes(index)) if loaded and index in loaded.vocabulary else f"id {index}"

    def _recorded(self, corpus: Corpus) -> str:
        return self.name or corpus.table.metadata["tokenizer"]["reference"]

    def _of(self, corpus: Corpus) -> LoadedTokenizer | None:
        """The tokenizer that counted the corpus; None (said once) where it cannot be loaded or is another one."""
        name = self._recorded(corpus)
        if name in self._failed:
            return None
        try:
            loaded = self.load(name)
        except FrspecError as error:
            self._failed.add(name)
            self.warn(f"no scripts and no token texts: {error.message} Name it with --tokenizer.")
            return None
        if loaded.fingerprint != corpus.table.fingerprint:
            raise FrspecError(
                f"{corpus.name} was counted with another tokenizer than {name} ({corpus.table.fingerprint[:12]}, not "
                f"{loaded.fingerprint[:12]})."
            )
        return loaded

    def _for_text(self, subsets: list[Path]) -> str:
        return self.name or load_subset(subsets[0]).metadata["tokenizer"]["reference"]


def curves(measured: Sequence[CoverageTarget]) -> list[Curve]:
    """Coverage against k, one line a subset and corpus; of a single one also a line for each of its sources.

    Raises `FrspecError` for a subset whose smaller sizes are no prefixes.
    """
    for each in measured:
        if not each.subset.metadata.get("nested", True):
            raise FrspecError(f"{each.name} has no smaller sizes to draw: its order is not by frequency alone.")
    several = len({each.name for each in measured}) > 1
    found = []
    for each in measured:
        label = f"{each.name} on {each.corpus.name}" if several else each.corpus.name
        if len(measured) == 1 and len(each.corpus.table.counts) > 1:
            label = f"all of {label}"
        found.append(curve(label, each.chosen(each.subset.k), each.corpus.by_fold(), first=_first(each)))
    counts = measured[0].corpus.table.counts
    if len(measured) == 1 and len(counts) > 1:
        orders = measured[0].chosen(measured[0].subset.k)
        found = [replace(found[0], leads=True)]
        found += [curve(source, orders, counts[source], first=_first(measured[0])) for source in sorted(counts)]
    return found


def _first(measured: CoverageTarget) -> int:
    """Where a curve begins: past the forced tokens, which stand first and may never occur (256 byte tokens)."""
    return max(128, 2 * measured.subset.forced)
