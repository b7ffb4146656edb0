"""How a subset is chosen from tables: the options of `build-vocab`, each with its one default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frspec_cli.errors import UsageError, not_one_of, option

FORCED_KINDS = {"all": ("eos", "template", "byte"), "eos": ("eos",), "none": ()}


@dataclass(frozen=True)
class Recipe:
    """What decides which ids a subset holds; written into it, so that a held-out check can repeat the choice.

    weights: source, table or `table:source` -> its weight in the mix; empty to add all counts.
    budgets: script -> rows kept for it.
    forced: which tokens are kept whatever their count, a key of FORCED_KINDS.
    force_ids: further ids that are kept.
    pad: fill up by id if too few tokens were seen.
    vocabulary_rows: of the model; None if only the tokenizer is known.
    multiple_of: k is rounded up to a multiple of it.
    shards: the vocabulary is cut into this many equal slices, of which each gives the same number of tokens.
    Raises `UsageError` for a value outside its range.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=dict)
    forced: str = "all"
    force_ids: tuple[int, ...] = ()
    pad: bool = False
    vocabulary_rows: int | None = None
    multiple_of: int = 1
    shards: int = 1

    def __post_init__(self) -> None:
        if self.forced not in FORCED_KINDS:
            raise not_one_of("forced", self.forced, FORCED_KINDS)
        for name in ("multiple_of", "shards"):
            if getattr(self, name) < 1:
                raise UsageError(f"{option(name)} must be at least 1.")
        for name, weight in self.weights.items():
            if not (weight > 0 and math.isfinite(weight)):
                raise UsageError(
                    f"{option('mix')} {name}={weight:g}: the weight must be above 0.",
                    hint="To leave a source out, do not name it.",
                )
        for name, rows in self.budgets.items():
            if rows < 1:
                raise UsageError(
                    f"{option('script_budget')} {name}={rows}: the number of tokens must be a whole number above 0."
                )

    @property
    def nested(self) -> bool:
        """Whether the first rows of a subset are the smaller subset."""
        return not self.budgets and self.shards == 1

    def rounded(self, k: int) -> int:
        """The smallest size from k on that is a multiple of `multiple_of` and of `shards`."""
        step = math.lcm(self.multiple_of, self.shards)
        return -(-k // step) * step

    def as_json(self) -> dict[str, Any]:
        """What goes into a subset's metadata. (`multiple_of` and `shards` only if they say something.)"""
        sizes = {"multiple_of": self.multiple_of, "shards": self.shards}
        return {
            "mix": dict(self.weights),
            "script_budgets": dict(self.budgets),
            "forced": self.forced,
            "force_ids": list(self.force_ids),
            "pad": self.pad,
            "vocabulary_rows": self.vocabulary_rows,
            **{name: value for name, value in sizes.items() if value > 1},
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Recipe:
        """The recipe in a subset's metadata."""
        return Recipe(
            weights=value["mix"],
            budgets=value["script_budgets"],
            forced=value["forced"],
            force_ids=tuple(value["force_ids"]),
            pad=value["pad"],
            vocabulary_rows=value["vocabulary_rows"],
            multiple_of=value.get("multiple_of", 1),
            shards=value.get("shards", 1),
        )
