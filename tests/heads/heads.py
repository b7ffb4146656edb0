"""Tiny random heads as other programs write them: names and shapes are typed out here, not taken from the code."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file

H, V, D, INNER, HEADS, KV, LAYERS = 16, 50, 12, 24, 4, 8, 8
TARGET = SimpleNamespace(hidden_size=H, vocab_size=V, num_hidden_layers=LAYERS)
IDS = torch.tensor([0, 2, 3, 7, 8, 9, 20, 21, 33, 40, 48, 49])
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": H,
    "intermediate_size": INNER, "num_attention_heads": HEADS, "num_key_value_heads": 2, "num_hidden_layers": 1,
    "rms_norm_eps": 1e-5, "vocab_size": V, "max_position_embeddings": 128,
}  # fmt: skip


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


EMBEDDING = draw(V, H, seed=99)


def layer(prefix: str, *, wide: bool) -> dict[str, torch.Tensor]:
    read = 2 * H if wide else H
    shapes = {
        "self_attn.q_proj": (H, read), "self_attn.k_proj": (KV, read), "self_attn.v_proj": (KV, read),
        "self_attn.o_proj": (H, H), "mlp.gate_proj": (INNER, H), "mlp.up_proj": (INNER, H), "mlp.down_proj": (H, INNER),
        "post_attention_layernorm": (H,),
    }  # fmt: skip
    if wide:
        shapes |= {"input_layernorm": (H,), "hidden_norm": (H,)}
    return {
        f"{prefix}{name}.weight": draw(*shape, seed=n) + ("norm" in name)
        for n, (name, shape) in enumerate(shapes.items())
    }


def eagle2() -> dict[str, torch.Tensor]:
    """EAGLE-1/2 as for Llama-3: no bias, no norm before attention, no last norm, no LM head."""
    return {"fc.weight": draw(H, 2 * H, seed=20)} | layer("layers.0.", wide=False)


def eagle3(prefix: str = "midlayer.") -> dict[str, torch.Tensor]:
    """EAGLE-3: three taps, an LM head over D of V tokens, d2t as offsets."""
    mask = torch.zeros(V, dtype=torch.bool)
    mask[IDS] = True
    return layer(prefix, wide=True) | {
        "fc.weight": draw(H, 3 * H, seed=21), "norm.weight": draw(H, seed=22) + 1, "lm_head.weight": draw(D, H, seed=23),
        "d2t": IDS - torch.arange(D), "t2d": mask,
    }  # fmt: skip


def write(folder: Path, tensors: dict[str, torch.Tensor], config: dict | None = None, *, pickled: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    if pickled:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def run(head, count: int = 5) -> torch.Tensor:
    """Log-probabilities of two draft steps of a chain over `count` pairs, after the target's token of each row."""
    states = draw(4, 1, count, H, seed=30)
    taps = tuple(states[1 : 1 + len(head.taps)])
    mask = torch.full((count, count), torch.finfo(torch.float32).min).triu(1)[None, None]
    tokens, places = torch.arange(3, 3 + count)[None], torch.arange(count)[None]
    first = head(head.embed(tokens), head.fuse(states[0], taps), places, mask)
    second = head(head.embed(tokens + 1), first, places + 1, mask)
    rows = head.own_lm_head or (lambda hidden: hidden @ EMBEDDING.T)
    return torch.cat([rows(head.lm_input(hidden)).log_softmax(-1) for hidden in (first, second)])
