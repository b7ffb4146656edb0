"""The attention kernel: grouped heads, one row or many, against softmax attention written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from frspec_cli.decoding.attention import additive, attend
from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.grouped import CPU_ROWS, causal_mask
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.target import Target
from tests.models.test_target import family_model
from tests.tiny import NoProcessor


@pytest.mark.parametrize("rows", [1, 2, 7, CPU_ROWS + 1])
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


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 9), (6, 6), (6, 20)])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_the_causal_sign_is_the_causal_mask(rows: int, length: int, groups: int, softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(2, 2 * groups, rows, 8, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 2, 2, length, 8, generator=generator, dtype=torch.float64)
    visible = torch.arange(length) <= torch.arange(length - rows, length)[:, None]
    sign = causal_mask(rows, query.dtype, query.device)
    mask = additive(visible, query.dtype)
    ours, expected = (
        attend(torch.nn.Module(), query, key, value, each, scaling=0.3, softcap=softcap)[0] for each in (sign, mask)
    )
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    folded = attend(torch.nn.Module(), query, key, value, mask.repeat(1, 1, groups, 1), scaling=0.3, softcap=softcap)[0]
    assert torch.equal(folded, expected)


def test_a_soft_cap_bends_the_scores_before_the_mask() -> None:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(1, 4, 3, 8, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 1, 2, 10, 8, generator=generator, dtype=torch.float64)
    visible = torch.arange(10) <= torch.arange(7, 10)[:, None]
    out, _ = attend(torch.nn.Module(), query, key, value, additive(visible, query.dtype), scaling=0.9, softcap=2.0)
    scores = torch.tanh(query @ key.repeat_interleave(2, 1).transpose(2, 3) * 0.9 / 2.0) * 2.0
    expected = torch.softmax(scores.masked_fill(~visible, float("-inf")), -1) @ value.repeat_interleave(2, 1)
    torch.testing.assert_close(out, expected.transpose(1, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma3Text", "Mistral"])
def test_calls_are_those_that_fused_kernels_of_a_gpu_take(family: str, monkeypatch) -> None:
    """Of CUDA's kernels flash takes no mask, and the efficient one no mask with unequal head counts, nor rows of it that do
    not begin at multiples of 16 bytes: what neither takes runs in the math kernel, which writes all scores out in float32.
    """
    kinds: set[str] = set()
    original = torch.nn.functional.scaled_dot_product_attention

    def look(query, key, value, *, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
        if attn_mask is None:
            assert is_causal
            kinds.add("causal")
        else:
            assert not enable_gqa
            assert query.shape[1] == key.shape[1] == value.shape[1]
            assert attn_mask.shape[2] in (1, query.shape[2])
            assert attn_mask.stride(2) % 8 == 0 or attn_mask.shape[2] == 1
            kinds.add("masked")
        return original(query, key, value, attn_mask=attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa)

    target = Target(name=family, folder=Path("."), model=family_model(family), processor=NoProcessor())
    torch.manual_seed(2)
    head = EagleHead(head_config_for(target.config, taps=(1,)), embedding_weight=target.embedding).to(target.dtype)
    engine = Engine(target, EagleDrafter(head.eval().requires_grad_(False), target.lm_head, TreeConfig(3, 2, 7)))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", look)
    engine.complete([3, 9, 27, 81, 5, 6, 7, 8], max_new_tokens=20, ignore_eos=True)
    assert kinds == {"causal", "masked"}
