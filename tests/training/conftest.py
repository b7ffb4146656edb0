"""A tiny target in float64 or float32, made in the process: 4 layers, 97 tokens."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from frspec_cli.training.answers import Answer

VOCABULARY = 97
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "hen",
    "runs",
    "lighthouse",
    "ships",
]


def make_target(dtype: torch.dtype = torch.float32):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        eos_token_id=0,
        bos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.mul_(4)
        model.lm_head.weight.data.mul_(8)  # far from uniform, so that there is something to learn
    return model.to(dtype).requires_grad_(False).eval()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: waiting for a second thread costs more than it does
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def target():
    return make_target()


@pytest.fixture(scope="session")
def target64():
    return make_target(torch.float64)


@pytest.fixture(scope="session")
def answers(target) -> list[Answer]:
    """40 prompts of unequal lengths and the target's sampled answers."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for index in range(40):
        prompt = torch.randint(2, VOCABULARY, (3 + index % 9,), generator=generator)
        ids = prompt[None]
        with torch.no_grad():
            for _ in range(5 + index % 12):
                law = target(input_ids=ids).logits[0, -1].softmax(-1)
                ids = torch.cat((ids, torch.multinomial(law, 1, generator=generator)[None]), 1)
        made.append(Answer(np.asarray(ids[0]), len(prompt), finished=False, greedy=False))
    return made


@pytest.fixture(scope="session")
def tiny_answers(tiny_folder, tmp_path_factory) -> Path:
    """The tiny model's sampled answers to 40 prompts, as `collect` writes them."""
    from tests.tiny import run_cli

    folder = tmp_path_factory.mktemp("tiny-answers")
    draw = random.Random(5)
    lines = [json.dumps({"prompt": " ".join(draw.choices(WORDS, k=3 + n % 7))}) + "\n" for n in range(40)]
    (folder / "prompts.jsonl").write_text("".join(lines))
    code, _, err = run_cli(
        "collect", folder / "prompts.jsonl", "--model", tiny_folder, "--out", folder / "answers.jsonl", "-n", 16,
        "--temperature", 1, "--device", "cpu", "--dtype", "float32",
    )  # fmt: skip
    assert code == 0, err
    return folder / "answers.jsonl"
