"""What a count is asked to do: what decides the result, how it is run, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from frspec_cli.corpus.documents import Fields
from frspec_cli.errors import UsageError

LEDGER_VERSION = 1
"""Part of a ledger's key: raised whenever the same text would be counted or recorded differently."""


ENGINES = ("local", "ray")


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


@dataclass(frozen=True)
class RunOptions:
    """What does not change the result: workers (None: one a core), engine, the share of bad records that is borne.

    shard: (I, N), 1 <= I <= N: of the corpus's shards every N-th, from the I-th on. restart: drop what a ledger holds.
    """

    encoder: str = "auto"
    workers: int | None = None
    engine: str = "local"
    max_bad: float = 0.01
    shard: tuple[int, int] = (1, 1)
    restart: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be at least 1, not {self.workers}.")
        if self.engine not in ENGINES:
            raise UsageError(f"--engine {self.engine} is not one of {', '.join(ENGINES)}.")
        if not 0 <= self.max_bad <= 1:
            raise UsageError(f"--max-bad is a share between 0 and 1, not {self.max_bad:g}.")
        index, count = self.shard
        if not 1 <= index <= count:
            raise UsageError(f"--shard is I/N with 1 <= I <= N, not {index}/{count}.")


@dataclass(frozen=True)
class Listener:
    """Who is told what happens: `say` gets sentences; `begin` the bytes on disk that are to be read; `progress` what was
    just done (documents, their bytes, their tokens, bytes read); `finished` the size of a shard that is counted."""

    say: Callable[[str], None] = lambda text: None
    progress: Callable[[int, int, int, int], None] = lambda documents, size, tokens, read: None
    begin: Callable[[int], None] = lambda size: None
    finished: Callable[[int], None] = lambda size: None
