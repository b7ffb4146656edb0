"""What `bench` and `profile` are asked to do. No torch here: the command line takes its defaults from this module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from frspec_cli.decoding.options import METHODS, TreeConfig, refuse_unused
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import UsageError, not_one_of, option
from frspec_cli.replay.options import parse_tree

BASELINE = "transformers"
"""The arm that is not a method of ours: transformers' own `generate`, with the cache that grows."""
BASELINES = (BASELINE, "transformers-static", "transformers-lookup")
"""That arm, the same with the cache of fixed length, and with transformers' prompt lookup."""
_TREE = TreeConfig()


@dataclass(frozen=True)
class BenchOptions:
    """What is measured; the result records it.

    methods: in the order of the tables.
    ks: subset sizes for frspec; () for the subset's own.
    depth, beam, nodes: the draft tree.
    own_trees: DEPTH,BEAM,NODES of each method that drafts another one.
    context_slots: spare draft rows for tokens of the text that the subset lacks (frspec only).
    max_new_tokens: the most tokens of a text.
    ignore_eos: decode past the end of sequence, so that every text has as many tokens.
    runs: how often every prompt is measured with every method.
    temperature: 0 is greedy; else run number R (0, 1, ..) draws with `seed` + R.
    """

    methods: tuple[str, ...] = ("ar", "eagle", "frspec")
    ks: tuple[int, ...] = ()
    depth: int = _TREE.depth
    beam: int = _TREE.beam
    nodes: int = _TREE.nodes
    own_trees: Mapping[str, str] = field(default_factory=dict)
    context_slots: int = 0
    max_new_tokens: int = 64
    ignore_eos: bool = False
    runs: int = 1
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in (*METHODS, *BASELINES)]
        if unknown:
            raise not_one_of("methods", unknown[0], (*METHODS, *BASELINES))
        for name, values in (("methods", self.methods), ("k", self.ks)):
            if len(set(values)) < len(values):
                raise UsageError(f"{option(name)} lists a value twice.")
        refuse_unused(self.methods, k=self.ks, context_slots=self.context_slots)
        TreeConfig(depth=self.depth, beam=self.beam, nodes=self.nodes)  # refuses sizes outside its range
        self.sampling(0)  # refuses temperatures outside its range

    @property
    def tree(self) -> TreeConfig:
        """The draft tree."""
        return TreeConfig(depth=self.depth, beam=self.beam, nodes=self.nodes)

    def sampling(self, run: int) -> Sampling:
        """How run number `run` chooses tokens."""
        return Sampling(temperature=self.temperature, seed=self.seed + run if self.temperature else 0)

    def tree_of(self, method: str) -> TreeConfig:
        """The draft tree of one method."""
        return parse_tree(self.own_trees[method]) if method in self.own_trees else self.tree


@dataclass(frozen=True)
class ProfileOptions(BenchOptions):
    """What is profiled: as `BenchOptions`; every text is decoded past the end of sequence."""

    ignore_eos: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in BASELINES:
            if name in self.methods:
                raise UsageError(
                    f"a profile looks into cycles, and {name} has none: leave it out of {option('methods')}."
                )
