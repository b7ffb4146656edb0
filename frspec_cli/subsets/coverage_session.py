"""Subset files on tables and texts: opens both, checks that they mean the same tokens, loads each tokenizer once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from frspec_cli.errors import FrspecError, option
from frspec_cli.subsets.eval_table import load_eval_table
from frspec_cli.subsets.evaluation import IN_SAMPLE, Evaluation, evaluate, missing_tables
from frspec_cli.subsets.load import load_subset
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.scripts import Scripts
from frspec_cli.subsets.shipped_tables import named_tokenizer
from frspec_cli.subsets.subset import show_token
from frspec_cli.subsets.tokenizer_check import Tokenizer, check_subset


class CoverageSession:
    """Tokenizers and scripts, each loaded once and only if something needs them."""

    def __init__(
        self,
        *,
        tokenizer: str | None = None,
        assistant_only: bool = False,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        """tokenizer: its name, in place of the recorded ones; it must be there.
        assistant_only: of conversations, count what the assistant said."""
        self.assistant_only = assistant_only
        self.name, self.say, self.warn = tokenizer, say, warn
        self._failed: set[str] = set()
        self._tokenizers: dict[str, Tokenizer] = {}
        self._scripts: dict[str, Scripts] = {}

    def open(self, on: list[str], subsets: list[Path]) -> list[NamedTable]:
        """Every table of `on`; text is counted with the tokenizer of the session or of the first subset."""

        def tokenizer() -> str:
            return self.name or load_subset(subsets[0]).metadata["tokenizer"]["reference"]

        return [load_eval_table(path, tokenizer, assistant_only=self.assistant_only, say=self.say) for path in on]

    def evaluate(self, path: Path, table: NamedTable, tables: list[NamedTable]) -> Evaluation:
        """The subset on the table. tables: all that are open. Raises `FrspecError` if their tokenizers differ."""
        tokenizer = self._tokenizer_of(table)
        subset = load_subset(path, tokenizer=tokenizer, warn=self.warn)
        if tokenizer is None and subset.fingerprint != table.table.fingerprint:
            check_subset(subset, self._load(self._name_for(table)), name=str(path), warn=self.warn)
        evaluation = evaluate(path.stem, subset, table, tables, tokenizer)
        if evaluation.known:
            part = "" if evaluation.known == 1 else f" {evaluation.known:.0%} of"
            self.warn(
                f"{path} was chosen from{part} the text of {table.name} itself, so its coverage is optimistic. Give "
                f"{option('on')} the table that it was chosen from for a figure that is held out by fold."
            )
        elif evaluation.how == IN_SAMPLE:
            missing = missing_tables(subset, tables)
            add = f"it was also chosen from {', '.join(missing)}: add {option('on')} for it"
            why = add if missing else "there are no folds to hold out"
            self.warn(f"{path} was chosen from {table.name} itself, so its coverage is optimistic ({why}).")
        return evaluation

    def scripts(self, table: NamedTable) -> Scripts | None:
        """Every token's script; None if the table's tokenizer cannot be loaded."""
        tokenizer = self._tokenizer_of(table)
        if tokenizer is None:
            return None
        if tokenizer.fingerprint not in self._scripts:
            self._scripts[tokenizer.fingerprint] = Scripts.of(tokenizer, tokenizer.highest_id + 1)
        return self._scripts[tokenizer.fingerprint]

    def token(self, table: NamedTable, index: int) -> str:
        """A token as a person reads it, or its id if the tokenizer cannot be loaded."""
        tokenizer = self._tokenizer_of(table)
        known = tokenizer is not None and index in tokenizer.spelled
        return show_token(tokenizer.token_bytes(index)) if tokenizer and known else f"id {index}"

    def _load(self, name: str) -> Tokenizer:
        if name not in self._tokenizers:
            self._tokenizers[name] = named_tokenizer(name)
        return self._tokenizers[name]

    def _name_for(self, table: NamedTable) -> str:
        return self.name or table.table.metadata["tokenizer"]["reference"]

    def _tokenizer_of(self, table: NamedTable) -> Tokenizer | None:
        """The tokenizer that counted; None (and one warning) if it cannot be loaded. Raises if it is another one."""
        if self.name is None and table.table.tokenizers:
            return table.table.tokenizers[0]
        name, fingerprint = self._name_for(table), table.table.fingerprint
        if name in self._failed:
            return None
        try:
            tokenizer = self._load(name)
        except FrspecError as error:
            if self.name is not None:
                raise
            self._failed.add(name)
            self.warn(f"no scripts and no token texts: {error.message} Name it with {option('tokenizer')}.")
            return None
        if tokenizer.fingerprint != fingerprint:
            raise FrspecError(
                f"{table.name} was counted with another tokenizer than {name} ({fingerprint[:12]}, not "
                f"{tokenizer.fingerprint[:12]})."
            )
        return tokenizer
