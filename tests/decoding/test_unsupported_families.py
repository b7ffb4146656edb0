"""Families that frspec cannot decode end in one sentence: not in a traceback, and never in another text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from frspec_cli.decoding.attention import HARMLESS, attend
from frspec_cli.decoding.engine import Engine
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import Target
from frspec_cli.verification.identity import score
from tests.decoding.families import SINKS
from tests.models.test_target import SMALL, family_model
from tests.tiny import NoProcessor, tiny_tokenizer

PROMPT = [3, 9, 27, 81, 5, 6, 7, 8, 4, 2, 60]
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12,
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1,
}  # fmt: skip
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "DeepseekV2": (LATENT, "deepseek_v2 has keys of 1 heads x 16 numbers in layer 0"),
    "DeepseekV3": (LATENT, "deepseek_v3 has keys of 1 heads x 16 numbers in layer 0"),
    "MiniCPM3": (LATENT, "minicpm3 has keys of 1 heads x 16 numbers in layer 0"),
    "Gemma4Text": (
        {"head_dim": 8, "global_head_dim": 16, "sliding_window": 8},
        "gemma4_text has a head_dim that differs",
    ),
    "Doge": ({"keep_window_size": 8}, "doge makes a mask of its own for each head"),
    "GptOss": ({"num_local_experts": 4, "head_dim": 8, "sliding_window": 8}, "gpt_oss passes `s_aux` to attention"),
    "Bloom": ({}, "bloom does not state `max_position_embeddings`"),
}


def _model(family: str) -> Any:
    kind = getattr(transformers, f"{family}Config", None)
    if kind is None:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    torch.manual_seed(3)
    config = kind(**(SMALL | FAMILIES[family][0]))
    return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@pytest.mark.parametrize("family", SINKS)
def test_sinks_are_refused_whatever_their_values(family: str) -> None:
    """A new model's sinks are all equal, so that its first ids may be right without them: that must not hide them."""
    target = Target(name=family, folder=Path("."), model=family_model(family), processor=NoProcessor())
    with pytest.raises(FrspecError, match="passes `s_aux` to attention"):
        Engine(target).complete(PROMPT, max_new_tokens=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_says_what_it_cannot_decode(family: str) -> None:
    target = Target(name=family, folder=Path("."), model=_model(family), processor=NoProcessor())
    with pytest.raises(FrspecError) as caught:
        Engine(target).complete(PROMPT, max_new_tokens=4)
    assert FAMILIES[family][1] in str(caught.value)
    assert str(caught.value).count(". ") == 0


def test_re_scoring_refuses_sinks_too() -> None:
    """It uses the same attention, so a score without the sinks would agree with a text without them."""
    target = Target(name="gpt-oss", folder=Path("."), model=_model("GptOss"), processor=NoProcessor())
    with pytest.raises(FrspecError, match="s_aux"):
        score(target, PROMPT, [1, 2, 3])


@pytest.mark.parametrize("family", ["DeepseekV3", "Doge", "GptOss", "Gemma4Text"])
def test_the_command_says_it_in_one_sentence(cli, tmp_path, family: str) -> None:
    _model(family).save_pretrained(tmp_path)
    tiny_tokenizer(96 + 256).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    code, out, err = cli(
        "generate", "!", "--model", tmp_path, "--method", "ar", "--dtype", "float32", "--device", "cpu", "--raw"
    )
    assert (code, out) == (1, ""), err
    assert err.startswith("error: ")
    assert err.splitlines()[0].count(". ") == 0
    assert "Traceback" not in err


def test_an_unknown_argument_is_named_and_none_or_a_harmless_one_is_not() -> None:
    query = torch.zeros(1, 2, 3, 4)
    module = torch.nn.Module()
    attend(module, query, query, query, None, s_aux=None, **dict.fromkeys(HARMLESS, 1))
    with pytest.raises(FrspecError, match="the model family Module passes `novelty` to attention"):
        attend(module, query, query, query, None, novelty=0.5)
