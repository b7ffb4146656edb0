"""First weights: a head drafts before it is trained, whatever norms the target's layers have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frspec_cli.answers.records import Answer
from frspec_cli.heads.config import head_config_for
from frspec_cli.training.init_head import MEASURED_ANSWERS, start_head
from frspec_cli.training.init_layer import LastLayer

SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "eos_token_id": 0, "bos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def make_gemma():
    """A tiny Gemma-3 with uneven norms: each of its layer's four matters."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(**SIZES, head_dim=8, layer_types=["full_attention"] * 4)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = Gemma3ForCausalLM(config)
        for name, parameter in model.named_parameters():
            parameter.data.copy_(torch.randn(parameter.shape) * 0.3 + (2.0 if "post_feed" in name else 0.0))
    return model.float().requires_grad_(False).eval()


def texts(count: int) -> list[Answer]:
    draw = np.random.default_rng(2)
    return [Answer(draw.integers(2, 97, 40), 4, finished=False, greedy=True) for _ in range(count)]


def likeness(target, head, *, scale: float) -> float:
    """Mean cosine of what the target's last layer and the draft's give for the target's own stream, which they change."""
    seen = {}
    hook = target.base_model.norm.register_forward_pre_hook(lambda module, inputs: seen.update(out=inputs[0]))
    ids = torch.from_numpy(texts(1)[0].ids)[None]
    stream = target.base_model(input_ids=ids, output_hidden_states=True).hidden_states[-2]
    hook.remove()
    places = torch.arange(ids.shape[1])
    mask = torch.full((len(places), len(places)), torch.finfo(torch.float32).min).triu(1)[None, None]
    x = stream * scale
    with torch.no_grad():
        attended = head.layer.self_attn(head.layer.attention_input(x, x), head.rotary(places[None]), mask, None)
        ours, theirs = head.layer.finish(x, attended) / scale - stream, seen["out"] - stream
    return float(torch.nn.functional.cosine_similarity(ours, theirs, dim=-1)[:, 1:].mean())


def test_a_start_from_a_gemma_takes_all_four_norms_along():
    """Its layer's projections, with norms of queries, keys and outputs folded in, do about what the layer does."""
    target, answers = make_gemma(), texts(48)
    config = head_config_for(target.config, taps=(1, 2))
    head = start_head(target, config, answers, generator=torch.Generator().manual_seed(0), device="cpu")
    folded, source = head.layer.self_attn.o_proj.weight, target.base_model.layers[-1].self_attn.o_proj.weight
    norm = target.base_model.layers[-1].post_attention_layernorm.weight + 1
    scales = folded / (source * norm[:, None])  # one number: stream's scale / size of what attention gives
    assert torch.allclose(scales, scales[:1, :1].expand_as(scales), rtol=1e-3)
    scale = scales[0, 0].detach() * LastLayer.of(target, answers[:MEASURED_ANSWERS]).size("self_attn.o_proj")
    assert likeness(target, head, scale=float(scale)) > 0.9


def test_a_start_from_a_gemma_has_matrices_of_one_size():
    """One learning rate is to suit all: a Gemma's own stream is a thousandfold of its readers' weights."""
    head = start_head(
        make_gemma(), head_config_for(make_gemma().config, taps=()), texts(48),
        generator=torch.Generator().manual_seed(0), device="cpu",
    )  # fmt: skip
    attention, mlp = head.layer.self_attn, head.layer.mlp
    for parts, size in (
        ((head.fc, attention.o_proj, mlp.down_proj), 0.3),
        ((attention.q_proj, attention.k_proj, attention.v_proj), 0.2),
        ((mlp.gate_proj, mlp.up_proj), 0.2),
    ):
        sizes = torch.stack([part.weight.detach().square().mean().sqrt() for part in parts])
        assert float(sizes.log().mean().exp()) == pytest.approx(size, rel=1e-4)


@pytest.mark.parametrize("layout", ["fused", "mtp"])
def test_a_start_needs_no_particular_norms(layout):
    """OLMo-2's layers norm outputs only, so some of a Llama layer's tensors are missing."""
    from transformers import Olmo2Config, Olmo2ForCausalLM

    torch.manual_seed(3)
    target = Olmo2ForCausalLM(Olmo2Config(**SIZES)).float().requires_grad_(False).eval()
    config = head_config_for(target.config, taps=(), layout=layout)
    head = start_head(target, config, texts(9), generator=torch.Generator().manual_seed(0), device="cpu")
    assert all(bool(parameter.isfinite().all()) for parameter in head.parameters())
