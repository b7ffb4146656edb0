"""What `verify` is asked to do. No torch here: the command line takes its defaults from this module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from frspec_cli.decoding.options import Method, TreeConfig, refuse_unused
from frspec_cli.errors import UsageError, not_one_of, option
from frspec_cli.models.shipped import DEFAULT_MODEL

METHODS = tuple(method for method in get_args(Method) if method != "ar")
EXACT_DTYPES = ("float32", "float64")
FLOAT32 = ("check", "skip")
_TREE = TreeConfig()


@dataclass(frozen=True)
class VerifyOptions:
    """What a verification depends on, given the prompts. The result file records it, draft and vocab as they were resolved.

    model, draft, vocab, k: the target, the head, the subset and the size of its prefix; None for what ships.
    method: what is verified against plain decoding.
    depth, beam, nodes: the draft tree.
    max_new_tokens: the most tokens of a text.
    limit: use this many prompts, spread evenly over their tasks; None for all.
    rescored: prompts checked by re-scoring, None for all.
    stock: prompts re-scored by transformers alone, in a process of its own, None for all.
    stepwise: prompts compared with plain decoding in float32 (in float64 and reduced precision: all), None for all.
    sampled: prompts compared at temperature 1 with `seed`, None for all.
    float32: below float32, "check" the same model in float32 as well, or "skip" that where it does not fit.
    """

    model: str = DEFAULT_MODEL
    draft: str | None = None
    vocab: str | None = None
    k: int | None = None
    method: Method = "frspec"
    depth: int = _TREE.depth
    beam: int = _TREE.beam
    nodes: int = _TREE.nodes
    max_new_tokens: int = 64
    limit: int | None = None
    rescored: int | None = None
    stock: int | None = 4
    stepwise: int | None = 8
    sampled: int | None = 4
    seed: int = 1
    dtype: str = "float32"
    float32: str = "check"
    device: str | None = None
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise not_one_of("method", self.method, METHODS)
        refuse_unused([self.method], draft=self.draft, vocab=self.vocab, k=self.k)
        TreeConfig(depth=self.depth, beam=self.beam, nodes=self.nodes)  # refuses sizes outside its range
        if self.float32 not in FLOAT32:
            raise not_one_of("float32", self.float32, FLOAT32)
        if self.float32 == "skip" and self.dtype in EXACT_DTYPES:
            raise UsageError(f"{option('float32')} skip has no effect with {option('dtype')} {self.dtype}.")

    @property
    def tree(self) -> TreeConfig:
        """The draft tree."""
        return TreeConfig(depth=self.depth, beam=self.beam, nodes=self.nodes)
