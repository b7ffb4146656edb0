"""What is asked of draft heads, without torch, so that the command line can check it at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from frspec_cli.errors import UsageError, not_one_of, option

Peer = Literal["eagle", "sglang", "speculators"]
PEERS: tuple[Peer, ...] = get_args(Peer)
MTP = "mtp"
"""What a user calls the target's own multi-token-prediction modules in place of a draft head's folder."""
MTP_PRENORM = "mtp-prenorm"
"""The same, reading the target's state before its final norm, and fed back as they are: as some engines run them."""
MODULES = (MTP, MTP_PRENORM)
ROWS = "safetensors"
"""What its LM head's rows of a subset are exported to."""


def yes_or_no(norm_output: str | None) -> bool | None:
    """What `norm_output` names: whether the normed output is fed back; None to read it from the head's config.

    Raises `UsageError` for anything but yes and no.
    """
    if norm_output not in (None, "yes", "no"):
        raise UsageError(f"{option('norm_output')} {norm_output} is neither yes nor no.")
    return None if norm_output is None else norm_output == "yes"


@dataclass(frozen=True)
class ExportOptions:
    """How a head is exported.

    to: the peer that is to read it.
    vocab: a subset to slice an EAGLE-3 head to.
    k: use the subset's first k tokens.
    model: the target: its name, number of layers, tokenizer and embedding.
    norm_output: "yes" or "no", whatever the head's config says; None to read it there.
    Raises `UsageError` for an unknown peer, or for `k` without `vocab`.
    """

    to: Peer
    vocab: Path | None = None
    k: int | None = None
    model: str | None = None
    norm_output: str | None = None

    def __post_init__(self) -> None:
        if self.to not in PEERS:
            raise not_one_of("to", self.to, PEERS)
        yes_or_no(self.norm_output)
        if self.k is not None and self.vocab is None:
            raise UsageError(f"{option('k')} takes a prefix of {option('vocab')}, which is not given.")
