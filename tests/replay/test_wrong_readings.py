"""A trained head that is read wrongly accepts less: a replay of a few answers in both readings shows which is right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.replay.cycles import Acceptance, replay

V = 97


def accepted(head: EagleHead, lm_head: LmHead, texts) -> float:
    return Acceptance.of(replay(head, lm_head, texts, tree=TreeConfig(4, 1, 5))).length


@pytest.mark.parametrize(
    "wrong",
    [{"norm_output": False}, {"norm_before_residual": False}, {"tap_norm": "none"}, {"window": None}, {"window": 1}],
)
def test_a_wrong_reading_accepts_less(trained, wrong):
    head, lm_head, texts, _ = trained
    mutant = EagleHead(
        replace(head.config, **wrong), embedding_weight=head.embedding_weight, own_lm_head=lm_head
    ).double()
    mutant.load_state_dict({name: head.state_dict()[name] for name in mutant.state_dict()})
    right = accepted(head, lm_head, texts)
    assert right > 2
    assert accepted(mutant.requires_grad_(False), lm_head, texts) < right - 0.1


def test_taps_counted_the_other_way_and_a_shifted_map_accept_less(trained):
    """The two mistakes that no tensor's shape shows: layers' outputs for hidden states, and a d2t that is off by one."""
    head, lm_head, texts, other_taps = trained
    right = accepted(head, lm_head, texts)
    assert accepted(head, lm_head, other_taps) < right - 0.1
    shifted = LmHead(lm_head.weight, ids=(torch.arange(V) + 1) % V)
    assert accepted(head, shifted, texts) < right - 0.1
