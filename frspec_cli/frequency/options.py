"""What a count is asked to do, as far as it decides what comes out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from frspec_cli.corpus.documents import Fields
from frspec_cli.errors import UsageError

LEDGER_VERSION = 1
"""Part of a ledger's key: raised whenever the same text would be counted or recorded differently."""


@dataclass(frozen=True)
class CountOptions:
    """Options that decide the counts. Those that do not (workers, progress, --max-bad) are arguments elsewhere.

    limit_documents, limit_tokens: exact, on the corpus's order; the last document is cut where the tokens end.
    until_stable: stop once the coverage that the top `stable_k` is expected to lose is below it.
    """

    text_field: str | None = None
    source_field: str | None = None
    max_document_bytes: int = 16 << 20
    limit_documents: int | None = None
    limit_tokens: int | None = None
    assistant_only: bool = False
    document_frequency: bool = False
    until_stable: float | None = None
    stable_k: int = 32768
    skip_broken_files: bool = False

    def __post_init__(self) -> None:
        for name in ("limit_documents", "limit_tokens", "max_document_bytes", "stable_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}.")
        if self.until_stable is not None and not 0 < self.until_stable < 1:
            raise UsageError(f"--until-stable is a share of all tokens between 0 and 1, not {self.until_stable:g}.")

    @property
    def fields(self) -> Fields:
        """Where records keep what is counted."""
        return Fields(self.text_field, self.source_field, self.max_document_bytes, self.assistant_only)

    def recorded(self) -> dict[str, Any]:
        """The options that were given, for a table's metadata and a ledger's key."""
        defaults = asdict(CountOptions())
        chosen = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        if self.until_stable is not None:
            chosen["stable_k"] = self.stable_k
        return chosen
