"""What the peers are given: exports that the command line wrote for the tiny model, and what frspec computes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from frspec_cli.heads.checkpoint import load_head
from frspec_cli.subsets.subset import VocabularySubset
from tests.heads.heads import write
from tests.heads.test_golden import Cache, additive
from tests.heads.test_in_the_engine import CONFIG, random_head
from tests.tiny import TEXT, run_cli, tiny_config

H, V, INNER, POSITIONS = 32, 320, 40, 9


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def run(*arguments: Any) -> str:
    """A command that must succeed; its output."""
    code, out, err = run_cli(*arguments)
    assert code == 0, err
    return out


def head_of(folder: Path, *, fc_norm: bool = False, layers: int = 1, qk_norm: bool = False, **config: Any) -> Path:
    """A random EAGLE-3 head over 96 tokens for the tiny model, with what the keys say beyond the usual."""
    tensors = random_head("eagle3")
    for name in [name for name in tensors if "norm" in name]:
        tensors[name] = 1 + draw(H, seed=len(name))
    if fc_norm:
        tensors |= {f"fc_norm.{n}.weight": 1 + draw(H, seed=40 + n) for n in range(3)}
    if qk_norm:
        tensors |= {f"midlayer.self_attn.{part}_norm.weight": 1 + draw(8, seed=50) for part in "qk"}
    for number in range(1, layers):
        shapes = {"self_attn.q_proj": (H, H), "self_attn.k_proj": (16, H), "self_attn.v_proj": (16, H)}
        shapes |= {"self_attn.o_proj": (H, H), "mlp.gate_proj": (INNER, H), "mlp.up_proj": (INNER, H)}
        shapes |= {"mlp.down_proj": (H, INNER), "input_layernorm": (H,), "post_attention_layernorm": (H,)}
        for n, (name, shape) in enumerate(shapes.items()):
            tensors[f"layers.{number}.{name}.weight"] = draw(*shape, seed=60 + n) + (len(shape) == 1)
    # The tiny model has four layers, for which speculators knows no default taps.
    return write(folder, tensors, CONFIG | {"eagle_aux_hidden_state_layer_ids": [1, 2, 3], **config})


def states() -> dict[str, torch.Tensor]:
    """Random taps, and the tokens after each state."""
    return {"taps": draw(1, POSITIONS, 3 * H, seed=1), "tokens": torch.arange(5, 5 + POSITIONS)[None]}


@torch.inference_mode()
def two_steps(folder: Path, model: Path, given: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """frspec's logits [T, D] of the first step, and of the second, in which row i follows row i and takes token i + 1."""
    embedding = load_file(model / "model.safetensors")["model.embed_tokens.weight"]
    head = load_head(folder, target_config=tiny_config(), embedding_weight=embedding, dtype=torch.float32)
    causal = torch.ones(POSITIONS, POSITIONS).tril().bool()
    seen = (
        causal
        if head.config.window is None
        else causal & causal.new_ones(POSITIONS, POSITIONS).triu(1 - head.config.window)
    )
    caches = [Cache() for _ in head.layers]
    places, tokens = torch.arange(POSITIONS)[None], given["tokens"]
    features = head.fuse(given["taps"], given["taps"].split(H, dim=-1))
    first = head(head.embed(tokens), features, places, additive(seen), caches)
    shifted = torch.cat((tokens[:, 1:], tokens.new_zeros(1, 1)), 1)
    own = additive(torch.cat((seen, torch.eye(POSITIONS).bool()), 1))
    second = head(head.embed(shifted), first, places + 1, own, caches)
    assert head.own_lm_head is not None
    return [head.own_lm_head(head.lm_input(each))[0] for each in (first, second)]


def subset(folder: Path, model: Path) -> tuple[Path, VocabularySubset, dict[int, int]]:
    """A subset of 60 tokens, its forced ones among them that no text holds; and every token's count in its table."""
    (folder / "text.txt").write_text("\n".join(TEXT))
    run("count-freq", folder / "text.txt", "--tokenizer", model, "--out", folder / "counts.parquet")
    run("build-vocab", folder / "counts.parquet", "--k", 60, "--out", folder / "subset.parquet")
    read = VocabularySubset.read(folder / "subset.parquet")
    from frspec_cli.counting.table import FrequencyTable

    counts = np.asarray(FrequencyTable.read(folder / "counts.parquet").totals())
    return folder / "subset.parquet", read, {int(index): int(counts[index]) for index in np.flatnonzero(counts)}


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())
