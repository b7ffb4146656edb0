"""Rows of a model whose config.json does not say: from its weights, else from the config's class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from frspec_cli.errors import FrspecError
from frspec_cli.models.rows import model_rows

NESTED = {
    "model_type": "gemma3",
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {"hidden_size": 8},
}


def _folder(folder: Path, config: dict[str, Any], **weights: tuple[int, ...]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if weights:
        tensors = {name.replace("__", "."): torch.zeros(shape) for name, shape in weights.items()}
        save_file(tensors, folder / "model.safetensors")
    return folder


def test_the_config_says(tmp_path: Path) -> None:
    assert model_rows(_folder(tmp_path, {"vocab_size": 100, "text_config": {"vocab_size": 7}})) == 100
    assert model_rows(_folder(tmp_path, {"text_config": {"vocab_size": 7}}, lm_head__weight=(9, 2))) == 7


def test_the_weights_say_what_the_config_does_not(tmp_path: Path) -> None:
    name, vision = "language_model__model__embed_tokens__weight", "vision_tower__patch_embedding__weight"
    assert model_rows(_folder(tmp_path, NESTED, **{name: (12, 2), vision: (3, 2)})) == 12


def test_an_index_leads_to_the_weights(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": torch.zeros(15, 2)}, tmp_path / "model-00002-of-00002.safetensors")
    names = {"model.norm.weight": "model-00001-of-00002.safetensors"}
    names |= {"model.embed_tokens.weight": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert model_rows(_folder(tmp_path, NESTED)) == 15


def test_without_weights_the_class_says(tmp_path: Path) -> None:
    from transformers import Gemma3TextConfig

    assert model_rows(_folder(tmp_path, NESTED)) == Gemma3TextConfig().vocab_size
    assert model_rows(_folder(tmp_path, NESTED, a__lm_head__weight=(4, 2), b__lm_head__weight=(5, 2))) is not None


def test_a_folder_that_does_not_say_has_none(tmp_path: Path) -> None:
    assert model_rows(tmp_path) is None
    assert model_rows(_folder(tmp_path, {"eos_token_id": 3})) is None
    assert model_rows(_folder(tmp_path, {"model_type": "of a later year"})) is None
    with pytest.raises(FrspecError, match="vocab_size is 'many'; expected a number from 1 to"):
        model_rows(_folder(tmp_path, {"vocab_size": "many"}))
