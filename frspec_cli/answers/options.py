"""What `collect` is asked to do. No torch here: the command line takes its defaults from this module."""

from __future__ import annotations

from dataclasses import dataclass, field

from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import UsageError, option


@dataclass(frozen=True)
class CollectOptions:
    """What the answers depend on, given prompts and target.

    max_new_tokens: the most tokens of an answer.
    sampling: greedy by default.
    batch_size: prompts answered together.
    raw: no chat template.
    limit: use the first N prompts; None for all.
    max_prompt_tokens: longer prompts are left out, plain texts cut; None for what fits into the context.
    all_turns: of conversations, answer each turn of the assistant's in turn, not the last alone.
    """

    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 32
    raw: bool = False
    limit: int | None = None
    max_prompt_tokens: int | None = None
    all_turns: bool = False

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "limit", "max_prompt_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{option(name)} must be at least 1, not {value}.")
