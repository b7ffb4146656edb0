"""The options of an export, without torch, so that the command line can check them at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from frspec_cli.errors import UsageError, option

Peer = Literal["eagle", "sglang", "speculators"]
PEERS: tuple[Peer, ...] = get_args(Peer)


@dataclass(frozen=True)
class ExportOptions:
    """How a head is exported.

    to: the peer that is to read it.
    vocab: a subset to slice an EAGLE-3 head to.
    k: use the subset's first k tokens.
    model: the target: its name, number of layers and tokenizer.
    Raises `UsageError` for an unknown peer, or for `k` without `vocab`.
    """

    to: Peer
    vocab: Path | None = None
    k: int | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if self.to not in PEERS:
            raise UsageError(f"{option('to')} {self.to} is not one of {', '.join(PEERS)}.")
        if self.k is not None and self.vocab is None:
            raise UsageError(f"{option('k')} takes a prefix of {option('vocab')}, which is not given.")
