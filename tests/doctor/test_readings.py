"""Which readings are tried, of which heads, and whose rows a head has."""

from __future__ import annotations

from dataclasses import replace

import torch

from frspec_cli.doctor.readings import as_filed, other_readings
from frspec_cli.doctor.rows import nearest_rows, rows_by_nearest
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from tests.doctor.conftest import remade
from tests.fixtures.trained_head import SCALED, V


def others(reading, target, longest=40):
    return {
        each.what: each for each in other_readings(reading, target=target.config, rows=target.lm_head, longest=longest)
    }


def test_eagle2_heads_are_tried_with_other_scales_and_orders(target):
    """Embedding and feature swapped in fc, and Gemma's scale left out: there nothing norms the embedding."""
    config = replace(head_config_for(target.config, taps=(), layout="eagle2"), embedding_scale=32**0.5)
    head = EagleHead(config, embedding_weight=target.embedding).double()
    found = others(as_filed(head, target.lm_head), target)
    unscaled, rows = found["embeddings are unscaled"].built(target.embedding)
    assert unscaled.config.embedding_scale == 1.0
    assert torch.equal(rows.weight, target.lm_head.weight)
    swapped, _ = found["fc reads the feature before the embedding"].built(target.embedding)
    assert torch.equal(swapped.fc.weight, torch.cat((head.fc.weight[:, 32:], head.fc.weight[:, :32]), dim=1))
    assert not {"taps", "norm_output", "d2t"} & {each.cause for each in found.values()}


def test_taps_stay_within_the_target(target, right):
    head, _ = right
    found = others(as_filed(remade(head, head.own_lm_head, taps=(0, 2, 4)), target.lm_head), target)
    assert not [each for each in found.values() if each.cause == "taps"]


def test_ropes_are_the_targets_and_usual_ones_once_each(target, right):
    head, _ = right
    own = as_filed(remade(head, head.own_lm_head, rope=SCALED), target.lm_head)
    assert [each.what for each in others(own, target).values() if each.cause == "rope"] == [
        "RoPE has the base 10,000, unscaled",
        "RoPE has the base 500,000, unscaled",
        "RoPE has the base 1,000,000, unscaled",
    ]


def test_float32_has_the_digits_of_the_files(target, right):
    """What was rounded on loading is not merely widened again."""
    exact, _ = right
    served = remade(exact, exact.own_lm_head).bfloat16()
    served.own_lm_head = LmHead(exact.own_lm_head.weight.bfloat16())
    found = others(as_filed(served, target.lm_head, exact=exact), target)
    wide, rows = found["it is computed in float32"].built(served.embedding_weight)
    assert {parameter.dtype for parameter in wide.parameters()} == {rows.weight.dtype} == {torch.float32}
    assert torch.equal(wide.fc.weight, exact.fc.weight.float())
    assert torch.equal(rows.weight, exact.own_lm_head.weight.float())
    same, _ = as_filed(served, target.lm_head, exact=exact).built(served.embedding_weight)
    assert torch.equal(same.fc.weight, served.fc.weight)


def test_the_rows_of_its_own_tokens_are_nearest(target):
    rows = target.lm_head
    assert nearest_rows(rows, rows.weight).share == 1.0
    shifted = nearest_rows(LmHead(rows.weight, ids=(torch.arange(V) + 1) % V), rows.weight)
    assert (shifted.share, shifted.foreign) == (0.0, True)
    assert nearest_rows(LmHead(rows.weight[:, :8]), rows.weight) is None


def test_rows_that_were_trained_from_scratch_say_nothing(target):
    random = torch.randn(V, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = nearest_rows(LmHead(random), target.lm_head.weight)
    assert (found.share < 0.2, found.foreign) == (True, False)
    assert rows_by_nearest(LmHead(random), target.lm_head.weight) is None


def test_of_two_rows_of_one_token_the_nearer_is_kept(target):
    """As where rows were cut by offsets that were taken for token ids: several rows are the same token's."""
    weight = target.lm_head.weight
    ids = torch.tensor([3, 3, 9, 20])
    rows = weight[ids].clone()
    rows[0] += 0.05 * rows[0].roll(1)
    found = rows_by_nearest(LmHead(rows, ids=torch.tensor([50, 51, 52, 53])), weight)
    assert found.ids.tolist() == [3, 9, 20]
    assert torch.equal(found.weight, rows[1:])
