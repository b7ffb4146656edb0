"""What `tune` is asked to do, and what `auto` means. No torch here: the command line takes its defaults from this module."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.errors import UsageError, option
from frspec_cli.replay.options import parse_tree

AUTO = "auto"
MTP_BEAMS, MTP_NODES = (1,), (2, 3, 4, 5, 6, 7)
"""For the target's own MTP module, unless something else is asked for: chains of one to six steps, as engines draft them."""
SAFE_TREE = TreeConfig(depth=3, beam=4, nodes=8)
"""The draft tree where nothing is known about the machine: small, for a row more may cost much."""
SURE_OF_ESTIMATE, SURE_OF_MEASUREMENT = 1.10, 1.03
"""How much faster than plain decoding a tree must be to be chosen: by an estimated rate, by a measured one."""
COSTS_CONTEXT = 256
"""Tokens of text that an answer from recorded costs alone stands behind."""


@dataclass(frozen=True)
class TreeChoice:
    """The draft tree as far as a user has chosen it; None is left to be chosen."""

    depth: int | None = None
    beam: int | None = None
    nodes: int | None = None

    @staticmethod
    def of(tree: str, *, depth: int | None = None, beam: int | None = None, nodes: int | None = None) -> TreeChoice:
        """tree: `auto`, or DEPTH,BEAM,NODES; a size of its own wins over it.

        Raises `UsageError` if that is no tree, or a size is outside its range.
        """
        whole = None if tree == AUTO else parse_tree(tree)
        given = TreeChoice(depth, beam, nodes)
        given.over(SAFE_TREE)  # refuses sizes outside their range
        if whole is None:
            return given
        sizes = given.over(whole)
        return TreeChoice(sizes.depth, sizes.beam, sizes.nodes)

    @property
    def given(self) -> bool:
        """Whether anything was chosen."""
        return self != TreeChoice()

    @property
    def tree(self) -> TreeConfig | None:
        """The tree, if all of it was chosen."""
        if self.depth is None or self.beam is None or self.nodes is None:
            return None
        return TreeConfig(depth=self.depth, beam=self.beam, nodes=self.nodes)

    def over(self, tree: TreeConfig) -> TreeConfig:
        """The tree with what was chosen in place of its own sizes."""
        chosen = {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name) is not None}
        return replace(tree, **chosen)

    def allows(self, tree: TreeConfig) -> bool:
        """Whether a tree has the sizes that were chosen."""
        return self.over(tree) == tree


@dataclass(frozen=True)
class TuneOptions:
    """How much is measured; the result records it.

    dtypes: () for those that may be fast on the device.
    ks: subset sizes; () for the subset's own.
    methods: frspec and eagle.
    contexts: lengths of text at which steps are measured, in tokens.
    depths, beams, nodes: the trees that are predicted.
    limit: answers that are replayed.
    held_out: of recorded answers, only those that `train-draft` never trains on.
    measured: of the best predicted trees, how many run in the engine.
    prompts: on how many prompts.
    max_new_tokens: of each text.
    rounds: how often each step is measured.
    """

    dtypes: tuple[str, ...] = ()
    ks: tuple[int, ...] = ()
    methods: tuple[str, ...] = ("frspec", "eagle")
    contexts: tuple[int, ...] = (128, 1024)
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    beams: tuple[int, ...] = (1, 2, 3, 4)
    nodes: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
    limit: int = 24
    held_out: bool = False
    measured: int = 5
    prompts: int = 8
    max_new_tokens: int = 64
    rounds: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("methods", "contexts", "ks", "dtypes"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UsageError(f"{option(name)} lists a value twice.")
        unknown = [method for method in self.methods if method not in ("frspec", "eagle")]
        if unknown:
            raise UsageError(f"a tune covers frspec and eagle, not {unknown[0]}.")
        if min(self.contexts, default=0) < 2:
            raise UsageError(f"{option('contexts')} must be lengths of 2 tokens or more.")
