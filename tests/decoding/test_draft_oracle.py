"""The draft oracle: at every cycle the drafter's tree is the one that a draft from scratch would give.

Mistakes in the draft (a cache that keeps guessed features, a position or a feature off by one, unshifted tokens) leave the
output as it is and only cost acceptance, so no test of identity sees them. This one does, and its mutants show that.
"""

from __future__ import annotations

import pytest
import torch

from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.tree import Tree
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.target import Target
from tests.tiny import tiny_config, tiny_target

PROMPT = [5, 17, 20, 31, 8, 11, 2]
SHAPE = TreeConfig(depth=4, beam=3, nodes=14)
VOCAB = 40


class Recording(EagleDrafter):
    """Remembers each cycle's root log-probs and tree."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.seen: list[tuple[torch.Tensor, Tree, int]] = []

    def propose(self, root, position, valid) -> Tree:
        tree = super().propose(root, position, valid)
        self.seen.append((self.first, tree, int(position)))
        return tree

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        found = super()._logits(hidden)
        if found.shape[1] == 1:
            self.first = torch.log_softmax(found[0, 0], dim=-1)
        return found


class KeepsGuesses(Recording):
    """Takes the draft's own outputs for features of accepted tokens, as gathering its cache would."""

    def append_states(self, tokens, last, taps, start) -> None:
        if self.seen:
            last = torch.cat((last[:1], self.guess, last[1 + len(self.guess) :]))[: len(last)]
        super().append_states(tokens, last, taps, start)
        self.guess = self.hidden[0]


class PositionOff(Recording):
    def _run(self, cache, tokens, features, positions, mask):
        shift = 1 if tokens.shape[1] == self.tree.beam else 0  # the tree's rows only: RoPE is relative
        return super()._run(cache, tokens, features, positions + shift, mask)


class FeatureOff(Recording):
    def append_states(self, tokens, last, taps, start) -> None:
        super().append_states(tokens, last.roll(1, 0), tuple(tap.roll(1, 0) for tap in taps), start)


class UnshiftedTokens(Recording):
    def append_states(self, tokens, last, taps, start) -> None:
        super().append_states(tokens.roll(1), last, taps, start)


class SeesCousins(Recording):
    """Forgets which rows are a node's ancestors: every tree row sees every earlier one."""

    def _run(self, cache, tokens, features, positions, mask):
        if tokens.shape[1] == self.tree.beam:
            mask[..., : int(cache.buffer.slots[0])] = 0
        return super()._run(cache, tokens, features, positions, mask)


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(config=tiny_config(vocab_size=VOCAB))


@pytest.fixture(scope="module", params=["fused", "mtp"])
def head(request, target: Target) -> EagleHead:
    seed, taps = (2, (1, 2)) if request.param == "fused" else (7, ())
    torch.manual_seed(seed)
    config = head_config_for(target.config, taps=taps, layout=request.param)
    head = EagleHead(config, embedding_weight=target.embedding)
    for parameter in head.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return head.to(target.dtype).eval().requires_grad_(False)


@torch.inference_mode()
def _from_scratch(target: Target, head: EagleHead, lm_head, text: list[int], path: tuple[int, ...]) -> torch.Tensor:
    """Log-probs after text + path: the target's features for the text, the draft's own outputs along the path."""
    committed = torch.tensor([text[:-1]])
    states = target.model(input_ids=committed, output_hidden_states=True).hidden_states
    features = head.fuse(states[-1], tuple(states[tap] for tap in head.taps))
    tokens = text[1:]
    for step in range(len(path) + 1):
        count = len(tokens)
        mask = torch.full((count, count), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]
        hidden = head(head.embed(torch.tensor([tokens])), features, torch.arange(count)[None], mask)
        if step < len(path):
            features = torch.cat((features, hidden[:, -1:]), dim=1)
            tokens = [*tokens, path[step]]
    return torch.log_softmax(lm_head(head.lm_input(hidden[:, -1])), dim=-1)[0]


def _tree_from_scratch(target, head, lm_head, text: list[int]) -> tuple[torch.Tensor, set[tuple[int, ...]]]:
    """EAGLE-2's tree by lists, every distribution computed from scratch: (root log-probs, the paths it keeps)."""
    ids = range(lm_head.size) if lm_head.ids is None else lm_head.ids.tolist()
    pool: list[tuple[float, tuple[int, ...]]] = []
    frontier: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    first = None
    for _ in range(SHAPE.depth):
        level = []
        for score, path in frontier:
            law = _from_scratch(target, head, lm_head, text, path)
            first = law if first is None else first
            best = law.topk(SHAPE.beam)
            level += [
                (score + value, (*path, list(ids)[row]))
                for value, row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        pool += level
        frontier = sorted(level, key=lambda entry: -entry[0])[: SHAPE.beam]
    kept = sorted(pool, key=lambda entry: -entry[0])[: SHAPE.nodes - 1]
    return first, {path for _, path in kept}


def _paths(tree: Tree) -> set[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for node in range(1, tree.nodes):
        found.append((*found[int(tree.parents[node])], int(tree.tokens[node])))
    return set(found[1:])


def _disagreement(kind: type[Recording], target: Target, head: EagleHead, k: int) -> tuple[float, int]:
    """(largest difference of a root log-prob, cycles whose trees differ) over a text of 24 tokens."""
    lm_head = target.lm_head.rows(torch.randperm(VOCAB, generator=torch.Generator().manual_seed(1))[:k])
    drafter = kind(head, lm_head, SHAPE)
    generation = Engine(target, drafter).complete(PROMPT, max_new_tokens=24, ignore_eos=True)
    assert sum(generation.accepted) > 0  # else the block that re-runs accepted tokens was never exercised
    text = PROMPT + generation.token_ids
    worst, different = 0.0, 0
    for first, tree, position in drafter.seen:
        expected, paths = _tree_from_scratch(target, head, lm_head, text[: position + 1])
        worst = max(worst, float((first - expected).abs().max()))
        different += _paths(tree) != paths
    return worst, different


@pytest.mark.parametrize("k", [VOCAB, 36])
def test_every_tree_is_the_one_drafted_from_scratch(target: Target, head: EagleHead, k: int) -> None:
    worst, different = _disagreement(Recording, target, head, k)
    assert worst < 1e-9
    assert different == 0


@pytest.mark.parametrize("mutant", [KeepsGuesses, PositionOff, FeatureOff, UnshiftedTokens, SeesCousins])
def test_the_oracle_catches_its_mutants(mutant: type[Recording], target: Target, head: EagleHead) -> None:
    worst, different = _disagreement(mutant, target, head, VOCAB)
    assert worst > 1e-3 or different > 0
