"""A target whose language model sits inside a multimodal one: trained for, loaded, drafted for and exported like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.tiny import run_cli

ON_CPU = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture(scope="module")
def gemma(tiny_folder, tmp_path_factory) -> Path:
    """A folder with a tiny random Gemma3ForConditionalGeneration, whose vision tower no test uses."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 3, "query_pre_attn_scalar": 8, "initializer_range": 0.1,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 4,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=317, boi_token_index=318,
        eoi_token_index=319, eos_token_id=0, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("multimodal") / "tiny-gemma"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / name, folder)
    return folder


@pytest.fixture(scope="module")
def recorded(gemma, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    lines = [
        {"prompt_token_ids": [5, 6 + n], "response_token_ids": [n, n + 1, n + 2, n + 3], "finish": "length"}
        for n in range(2, 22)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("layout", ["fused", "eagle3"])
def test_a_head_is_trained_for_it_and_drafts(gemma, recorded, tmp_path, layout) -> None:
    more = []
    if layout == "eagle3":
        (tmp_path / "ids.txt").write_text("".join(f"{n}\n" for n in range(64)))
        made = run_cli("import-vocab", tmp_path / "ids.txt", "--tokenizer", gemma, "--out", tmp_path / "subset.parquet")
        assert made[0] == 0, made[2]
        more = ["--vocab", tmp_path / "subset.parquet"]
    head = tmp_path / "head"
    code, _, err = run_cli(
        "train-draft", recorded, "--model", gemma, "--out", head, "--epochs", 1, "--layout", layout, *more, *ON_CPU
    )
    assert code == 0, err
    common = ["the fox", "--model", gemma, "-n", 12, "--json", "-q", "--device", "cpu", "--dtype", "float64"]
    plain = json.loads(run_cli("generate", *common, "--method", "ar")[1])
    code, out, err = run_cli("generate", *common, "--draft", head, "--method", "eagle")
    assert code == 0, err
    assert json.loads(out)["token_ids"] == plain["token_ids"]


def test_the_embedding_of_the_language_model_goes_into_an_export(gemma, recorded, tmp_path) -> None:
    from transformers import Gemma3ForConditionalGeneration

    from frspec_cli.models.embedding import read_embedding

    model = Gemma3ForConditionalGeneration.from_pretrained(gemma)
    assert torch.equal(read_embedding(gemma), model.model.language_model.embed_tokens.weight)
