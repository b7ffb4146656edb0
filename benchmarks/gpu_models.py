"""Targets and EAGLE heads of random weights, made on the device: for the cost of steps, which depends on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from frspec_cli.bench.untrained import first_ids
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.target import Target


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    context: int


SHAPES = {
    "llama3-8b": Shape(128_256, 4096, 14_336, 32, 32, 8, 16_384),
    "tiny": Shape(320, 32, 48, 4, 4, 2, 512),
}


class _NoTokenizer:
    """The target is fed ids only."""

    eos_token_id = None
    chat_template = None


def make_pipeline(shape: Shape, *, dtype: torch.dtype, device: torch.device, k: int, seed: int = 0) -> Pipeline:
    """A target, an EAGLE-2 head and a subset of the first k ids, all weights random and on the device."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        initializer_range=0.3 if shape.hidden < 1024 else 0.02,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    cards = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        torch.manual_seed(seed)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
            target = Target(f"random {shape.layers}x{shape.hidden}", Path("."), model, _NoTokenizer())
            head = EagleHead(head_config_for(config, layout="eagle2"), embedding_weight=target.embedding)
    head = head.to(device, dtype).eval().requires_grad_(False)
    return Pipeline(target=target, head=head, subset=first_ids(k), draft="random", vocab="the first ids")


def random_ids(pipeline: Pipeline, count: int) -> list[int]:
    """A text of `count` ids; the last half repeats the first, so that lookup finds something."""
    generator = torch.Generator().manual_seed(1)
    half = torch.randint(0, pipeline.target.rows, ((count + 1) // 2,), generator=generator).tolist()
    return (half + half)[:count]
