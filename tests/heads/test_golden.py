"""Our modules and trees against the published EAGLE code's outputs (see golden/make.py for how those were made)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.heads.checkpoint import load_head
from frspec_cli.models.lm_head import LmHead

GOLDEN = Path(__file__).parent / "golden"
LAYERS = 12


@pytest.fixture(params=["eagle2", "eagle3"])
def golden(request):
    tensors = load_file(GOLDEN / request.param / "golden.safetensors")
    vocabulary, size = tensors["embedding"].shape
    target = SimpleNamespace(hidden_size=size, vocab_size=vocabulary, num_hidden_layers=LAYERS)
    head = load_head(
        GOLDEN / request.param, target_config=target, embedding_weight=tensors["embedding"], dtype=torch.float32
    )
    # An EAGLE-1/2 head reads the last state alone, an EAGLE-3 head three taps.
    states = tensors["states"].split(size, dim=-1)
    taps = states if head.taps else ()
    return SimpleNamespace(head=head, last=states[-1], taps=taps, **tensors)


class Cache:
    """Keys and values, one block after another."""

    def __init__(self) -> None:
        self.kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, keys, values):
        if self.kept is not None:
            keys, values = torch.cat((self.kept[0], keys), 2), torch.cat((self.kept[1], values), 2)
        self.kept = keys, values
        return self.kept


def additive(visible: torch.Tensor) -> torch.Tensor:
    return torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[None, None]


def test_the_modules_agree_to_1e_5(golden):
    head, count = golden.head, len(golden.last)
    cache = Cache()
    features = head.fuse(golden.last[None], tuple(tap[None] for tap in golden.taps))
    causal = additive(torch.ones(count, count).tril().bool())
    prefill = head(head.embed(golden.tokens[None, 1:]), features, torch.arange(count)[None], causal, [cache])
    torch.testing.assert_close(prefill[0], golden.prefill, rtol=0, atol=1e-5)
    own = torch.cat((torch.ones(3, count).bool(), torch.eye(3).bool()), 1)
    step = head(
        head.embed(torch.tensor([[3, 4, 5]])),
        prefill[:, -1:].expand(-1, 3, -1),
        torch.full((1, 3), count),
        additive(own),
        [cache],
    )
    torch.testing.assert_close(step[0], golden.step, rtol=0, atol=1e-5)


def test_the_trees_agree_node_by_node_at_depth_5_top_10_of_60(golden):
    lm_head = golden.head.own_lm_head or LmHead(golden.lm_head)
    drafter = EagleDrafter(golden.head, lm_head, TreeConfig(depth=6, beam=10, nodes=60))
    count = len(golden.last)
    drafter.reset(length=count + 8)
    with torch.no_grad():
        drafter.append_states(golden.tokens[1:], golden.last, golden.taps, torch.zeros(1, dtype=torch.int64))
        drafter.reach = count
        tree = drafter.propose(golden.tokens[-1:], torch.tensor([count]), torch.tensor([count]))
    assert torch.equal(tree.tokens, golden.draft_tokens)
    assert torch.equal(tree.levels, golden.positions)
    assert torch.equal(tree.ancestors, golden.mask)
    assert int(tree.levels.max()) > 2


def test_mutants_are_told_apart(golden):
    """The agreement means something: with unshifted tokens, or stretched positions, it is gone."""
    head, count = golden.head, len(golden.last)
    features = head.fuse(golden.last[None], tuple(tap[None] for tap in golden.taps))
    causal = additive(torch.ones(count, count).tril().bool())
    unshifted = head(head.embed(golden.tokens[None, :-1]), features, torch.arange(count)[None], causal)
    assert (unshifted[0] - golden.prefill).abs().max() > 0.01
    stretched = head(head.embed(golden.tokens[None, 1:]), features, 2 * torch.arange(count)[None], causal)
    assert (stretched[0] - golden.prefill).abs().max() > 1e-3
