"""Heads go to disk and come back, or are refused by the tensor that is wrong."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from frspec_cli.errors import FrspecError
from frspec_cli.heads.checkpoint import load_head, save_head
from frspec_cli.heads.config import HeadConfig
from frspec_cli.heads.head import EagleHead

CONFIG = HeadConfig(
    layout="fused",
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    vocab_size=50,
    rms_norm_eps=1e-6,
    rope={"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    | {"original_max_position_embeddings": 64},
    taps=(1, 3),
)
TARGET = SimpleNamespace(hidden_size=16, vocab_size=50, num_hidden_layers=4)
EMBEDDING = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


def random_head() -> EagleHead:
    head = EagleHead(CONFIG, embedding_weight=EMBEDDING)
    generator = torch.Generator().manual_seed(1)
    for parameter in head.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return head


def load(folder, **changes):
    options = {"target_config": TARGET, "embedding_weight": EMBEDDING, "dtype": torch.float32} | changes
    return load_head(folder, **options)


def test_a_saved_head_comes_back_and_computes_the_same(tmp_path):
    head = random_head()
    save_head(head, tmp_path / "head", card="# card\n", extra={"target": "tiny"}, dtype=torch.float32)
    loaded = load(tmp_path / "head")
    assert loaded.config == head.config
    assert loaded.taps == (1, 3)
    assert loaded.own_lm_head is None
    states = torch.randn(3, 1, 5, 16, generator=torch.Generator().manual_seed(2))
    mask = torch.full((5, 5), torch.finfo(torch.float32).min).triu(1)[None, None]
    outputs = [
        h(h.embed(torch.arange(5)[None]), h.fuse(states[0], (states[1], states[2])), torch.arange(5)[None], mask)
        for h in (head, loaded)
    ]
    assert torch.equal(*outputs)
    assert sorted(p.name for p in (tmp_path / "head").iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_neither_embedding_nor_lm_head_is_stored(tmp_path):
    save_head(random_head(), tmp_path / "head", card="", dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "head" / "model.safetensors")
    assert all(tensor.dtype == torch.bfloat16 and 50 not in tensor.shape for tensor in tensors.values())


def test_bfloat16_keeps_the_rotary_frequencies_in_float32(tmp_path):
    save_head(random_head(), tmp_path / "head", card="", dtype=torch.bfloat16)
    assert load(tmp_path / "head", dtype=torch.bfloat16).rotary.inverse_frequencies.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("fc.weight"), r"lacks the tensor fc.weight of shape \[16, 32\]"),
        (lambda t: t.update({"extra.weight": torch.zeros(2, 3)}), r"unknown tensor extra.weight of shape \[2, 3\]"),
        (
            lambda t: t.update({"norm.weight": torch.zeros(15)}),
            r"tensor norm.weight has shape \[15\], expected \[16\]",
        ),
    ],
)
def test_wrong_tensors_are_named(tmp_path, change, message):
    save_head(random_head(), tmp_path / "head", card="", dtype=torch.float32)
    path = tmp_path / "head" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(FrspecError, match=message):
        load(tmp_path / "head")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"hidden_size": 32}, "its hidden_size is 16, the target's is 32"),
        ({"vocab_size": 51}, "its vocab_size is 50, the target's is 51"),
        ({"num_hidden_layers": 2}, "taps hidden state 3, but the target has 2 layers"),
    ],
)
def test_a_head_of_another_target_is_refused(tmp_path, target, message):
    save_head(random_head(), tmp_path / "head", card="", dtype=torch.float32)
    with pytest.raises(FrspecError, match=message):
        load(tmp_path / "head", target_config=SimpleNamespace(**(vars(TARGET) | target)))


def test_broken_files_are_one_sentence(tmp_path):
    with pytest.raises(FrspecError, match="it is not a folder"):
        load(tmp_path / "none")
    save_head(random_head(), tmp_path / "head", card="", dtype=torch.float32)
    (tmp_path / "head" / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(FrspecError, match="is not a readable safetensors file"):
        load(tmp_path / "head")
    save_head(random_head(), tmp_path / "head", card="", dtype=torch.float32)
    config = json.loads((tmp_path / "head" / "config.json").read_text())
    del config["head_dim"]
    (tmp_path / "head" / "config.json").write_text(json.dumps(config))
    with pytest.raises(FrspecError, match=r"config\.json: head_dim is missing"):
        load(tmp_path / "head")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_refused_by_its_name(tmp_path, value):
    head = random_head()
    head.fuse_proj.weight.data[3, 2] = value
    save_head(head, tmp_path / "head", card="", dtype=torch.float32)
    with pytest.raises(FrspecError, match=r"tensor fuse_proj\.weight holds NaN or infinity"):
        load(tmp_path / "head")
