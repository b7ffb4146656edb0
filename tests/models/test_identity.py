"""The identity of a target: another one for each change that changes answers, the same for every way of loading it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from frspec_cli.models.identity import has_weights, target_identity
from frspec_cli.models.target import Target, load_target
from tests.tiny import tiny_config, tiny_target


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def identity(folder: Path, dtype: str = "float32") -> str:
    return target_identity(load_target(str(folder), device="cpu", dtype=dtype))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def edit_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = tensors[name] * 1.01
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def edit_rope(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edit_json(folder / "config.json", rope_parameters=config["rope_parameters"] | {"rope_theta": 5e5})


CHANGES: dict[str, Callable[[Path], None]] = {
    "embedding": lambda folder: edit_tensor(folder, "model.embed_tokens.weight"),
    "middle layer": lambda folder: edit_tensor(folder, "model.layers.2.mlp.up_proj.weight"),
    "norm": lambda folder: edit_tensor(folder, "model.layers.1.input_layernorm.weight"),
    "rope_theta": edit_rope,
    "end of sequence": lambda folder: edit_json(folder / "generation_config.json", eos_token_id=[0, 1]),
    "chat template": lambda folder: edit_json(folder / "tokenizer_config.json", chat_template="{{ messages }}"),
    "template file": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}") and None,
    "tokenizer": lambda folder: edit_json(folder / "tokenizer.json", post_processor=None, normalizer={"type": "NFC"}),
}
WEIGHTS = ("embedding", "middle layer", "norm")


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_another_target(folder, tiny_folder, change):
    before = load_target(str(tiny_folder), device="cpu", dtype="float32")
    recorded = target_identity(before)
    CHANGES[change](folder)
    after = load_target(str(folder), device="cpu", dtype="float32")
    assert target_identity(after) != recorded
    assert has_weights(before, recorded)
    assert has_weights(after, recorded) == (change not in WEIGHTS)  # a head fits the weights, whatever the template


def test_ways_of_loading_and_storing_are_the_same_target(folder, tiny_folder, tmp_path):
    known = identity(tiny_folder)
    assert len(known) == 64
    assert identity(tiny_folder, "bfloat16") == identity(tiny_folder, "float64") == known
    edit_json(folder / "config.json", transformers_version="4.0.0")
    assert identity(folder) == known
    target = load_target(str(folder), device="cpu", dtype="float32")
    target.model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    (folder / "model.safetensors").unlink()
    for path in (tmp_path / "shards").glob("model*"):
        shutil.copy(path, folder)
    assert (folder / "model.safetensors.index.json").is_file()
    assert identity(folder) == known


def test_a_large_tensor_is_read_from_end_to_end(folder):
    """A tensor beyond the blocks that are hashed: a change at either end, or of all, is seen."""
    path = folder / "model.safetensors"
    large = torch.arange(100_000.0)
    target = Target(name="tiny", folder=folder, model=None, processor=None)
    seen = set()
    for change in (large, large + (large == 0), large + (large == 99_999), large * 1.01):
        save_file({"large": change}, path)
        seen.add(target_identity(target))
    assert len(seen) == 4


def test_records_of_older_heads_are_understood(folder, tiny_folder):
    target = load_target(str(tiny_folder), device="cpu", dtype="float32")
    weight = load_file(tiny_folder / "model.safetensors")["model.embed_tokens.weight"]
    recorded = hashlib.sha256(weight[:: 320 // 64].numpy().tobytes()).hexdigest()[:24]
    assert has_weights(target, recorded)
    rounded = weight[:: 320 // 64].bfloat16().float().numpy().tobytes()
    assert has_weights(target, hashlib.sha256(rounded).hexdigest()[:24])  # of a head that was trained in bfloat16
    edit_tensor(folder, "model.embed_tokens.weight")
    assert not has_weights(load_target(str(folder), device="cpu", dtype="float32"), recorded)


def test_a_target_made_in_memory_is_known_by_what_is_loaded():
    known = target_identity(tiny_target())
    assert target_identity(tiny_target()) == known
    assert target_identity(tiny_target(seed=8)) != known
    other = tiny_config(rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    assert target_identity(tiny_target(config=other)) != known
    changed = tiny_target()
    changed.model.model.layers[2].mlp.up_proj.weight.data[5, 7] += 1
    assert target_identity(changed) != known
