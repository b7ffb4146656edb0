"""A trained head that is read wrongly accepts less: a replay of a few answers in both readings shows which is right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from frspec_cli.decoding.attention import additive
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.replay.cycles import Acceptance, replay
from tests.replay.test_cycles import greedy, states_of
from tests.tiny import tiny_config, tiny_target

V, STEPS, LENGTH = 97, 3, 44


def mask(rows: int, window: int | None) -> torch.Tensor:
    places = torch.arange(rows)
    distance = places[:, None] - places[None, :]
    return additive((distance >= 0) & (distance < (window or rows)), torch.float32)


@pytest.fixture(scope="module")
def trained():
    """(an EAGLE-3.1 head with a window, its LM head, recorded answers with the target's states; the same at taps one less)."""
    target = tiny_target(config=tiny_config(vocab_size=V, initializer_range=0.15))
    generator = torch.Generator().manual_seed(0)
    answers = [greedy(target, torch.randint(1, V, (4,), generator=generator).tolist(), LENGTH - 4) for _ in range(16)]
    config = replace(
        head_config_for(target.config, taps=(1, 2, 3), layout="eagle3", draft_vocab_size=V),
        norm_output=True,
        norm_before_residual=True,
        tap_norm="each",
        window=4,
    )
    texts = states_of(target.model, answers, taps=config.taps)
    torch.manual_seed(1)
    rows = torch.nn.Parameter(target.lm_head.weight.float().clone())
    head = EagleHead(config, embedding_weight=target.embedding.float(), own_lm_head=LmHead(rows))
    for norm in (head.norm, *head.fc_norm):  # with weights of 1, a second norm or a missing one would hardly show
        torch.nn.init.normal_(norm.weight)
    ids = torch.stack([torch.from_numpy(answer.ids) for answer in answers])
    taps = [torch.stack([states.taps[n] for _, states in texts]).float() for n in range(3)]
    optimizer = torch.optim.AdamW([*head.parameters(), rows], lr=4e-3)
    for _ in range(150):
        loss, features = torch.zeros(()), head.fuse(taps[-1], tuple(taps))[:, : LENGTH - 2]
        for step in range(STEPS):
            count = LENGTH - 2 - step
            tokens = head.embed(ids[:, 1 + step : 1 + step + count])
            places = (torch.arange(count) + step).expand(len(ids), -1)
            features = head(tokens, features[:, :count], places, mask(count, config.window))
            logits = head.lm_input(features) @ rows.T
            loss = loss + cross_entropy(logits.flatten(0, 1), ids[:, 2 + step :].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    other_taps = states_of(target.model, answers, taps=tuple(tap - 1 for tap in config.taps))
    return head.double().requires_grad_(False), LmHead(rows.detach().double()), texts, other_taps


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
