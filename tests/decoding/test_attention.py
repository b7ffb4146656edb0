"""The attention kernel: grouped heads, one row or many, against softmax attention written out."""

from __future__ import annotations

import pytest
import torch

from frspec_cli.decoding.attention import additive, attend


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_softmax_attention(rows: int, groups: int, batch: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(batch, rows, 2 * groups, 8, generator=generator, dtype=torch.float64).transpose(1, 2)
    key, value = torch.randn(2, batch, 2, 20, 8, generator=generator, dtype=torch.float64)
    visible = torch.rand(rows, 20, generator=generator) < 0.5
    visible[:, 0] = True
    out, _ = attend(
        torch.nn.Module(), query, key, value, additive(visible, query.dtype) if masked else None, scaling=0.3
    )
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * 0.3
    if masked:
        scores = scores.masked_fill(~visible, float("-inf"))
    expected = torch.softmax(scores, -1) @ value.repeat_interleave(groups, 1)
    assert out.shape == (batch, rows, 2 * groups, 8)
    assert out.is_contiguous()
    torch.testing.assert_close(out, expected.transpose(1, 2), rtol=1e-12, atol=1e-12)
