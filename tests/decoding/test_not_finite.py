"""A target that computes NaN or infinity is refused at the first such logits, by every way of running it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from frspec_cli.answers.batched_decode import TokenizedPrompt, decode_batch
from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import target_states
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.lookup import LookupDrafter
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import FrspecError
from frspec_cli.models.lm_head import lm_head_of
from frspec_cli.models.target import Target
from tests.tiny import tiny_target

PROMPT = (5, 9, 17, 33)
BAD = (float("nan"), float("inf"), float("-inf"))
WEIGHTS = {
    "model.embed_tokens.weight": "first in the embedding",
    "model.layers.1.mlp.up_proj.weight": "first in layer 1",
    "model.layers.3.self_attn.v_proj.weight": "first in layer 3 or the norm after it",
    "model.norm.weight": "first in layer 3 or the norm after it",
    "lm_head.weight": "first in the LM head",
}


def _spoilt(weight: str, value: float, row: int = PROMPT[0]) -> Target:
    target = tiny_target()
    tensor = target.model.get_parameter(weight)
    tensor.data[row if tensor.ndim == 2 else ...] = value
    return target


@pytest.fixture(params=["plain", "lookup"])
def drafter(request: pytest.FixtureRequest) -> LookupDrafter | None:
    return LookupDrafter(4) if request.param == "lookup" else None


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_prompt_is_refused_with_the_place_and_the_weight(weight: str, value: float) -> None:
    target = _spoilt(weight, value)
    for sampling in (None, Sampling(temperature=0.7, top_k=5)):
        with pytest.raises(FrspecError, match="NaN or infinity at new token 1 \\(position 4\\)") as caught:
            Engine(target).complete(PROMPT, max_new_tokens=4, sampling=sampling)
        assert WEIGHTS[weight] in caught.value.message
        assert f"Its weight {weight} is not finite" in caught.value.hint


def test_a_later_token_is_refused_where_it_is_read(drafter: LookupDrafter | None) -> None:
    """Only the embedding of the third new token is spoilt, so that three are right and the fourth cannot be known."""
    sound = Engine(tiny_target(), None).complete(PROMPT, max_new_tokens=8).token_ids
    third = sound[2]
    assert third not in (*PROMPT, *sound[:2])
    engine = Engine(_spoilt("model.embed_tokens.weight", float("nan"), row=third), drafter)
    emitted: list[int] = []
    cycles = engine.generate(PROMPT, max_new_tokens=8)
    with pytest.raises(FrspecError, match=r"NaN or infinity at new token 4 \(position 7\), first in the embedding"):
        emitted.extend(token for cycle in cycles for token in cycle.tokens)
    assert emitted == sound[:3]


def test_the_next_text_does_not_meet_the_last_ones_numbers(drafter: LookupDrafter | None) -> None:
    """Rows of the cache are masked, not removed, and zero times NaN is NaN."""
    target = _spoilt("model.embed_tokens.weight", float("nan"), row=200)
    engine = Engine(target, drafter)
    with pytest.raises(FrspecError, match="NaN or infinity"):
        engine.complete((*PROMPT, 200), max_new_tokens=3)
    sound = Engine(tiny_target()).complete(PROMPT, max_new_tokens=3)
    assert engine.complete(PROMPT, max_new_tokens=3).token_ids == sound.token_ids


def test_finite_weights_that_overflow_are_told_apart() -> None:
    target = tiny_target()
    target.model.lm_head.weight.data.mul_(1e300)
    target.model.model.norm.weight.data.mul_(1e300)
    with pytest.raises(FrspecError, match="first in the LM head") as caught:
        Engine(target).complete(PROMPT, max_new_tokens=2)
    assert "Its weights are finite" in caught.value.hint


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)])
def test_a_batch_names_the_prompt(sampling: Sampling) -> None:
    target = _spoilt("model.embed_tokens.weight", float("nan"), row=200)
    prompts = [TokenizedPrompt("q1", "", PROMPT), TokenizedPrompt("q2", "", (9, 200, 33))]
    with pytest.raises(FrspecError, match="at new token 1 of the answer to prompt q2, first in the embedding"):
        decode_batch(target, prompts, max_new_tokens=3, sampling=sampling)
    sound = decode_batch(target, prompts[:1], max_new_tokens=3, sampling=sampling)
    assert len(sound[0].ids) <= 3


def test_states_name_the_answer() -> None:
    target = _spoilt("model.layers.1.mlp.up_proj.weight", float("inf"))
    answers = [Answer(np.array([*PROMPT, 7]), 2, True, True, name) for name in ("a1", "a2")]
    with pytest.raises(FrspecError, match="over answer a1, first in layer 1"):
        list(target_states(target.model, answers, layers=(1,)))
    assert len(list(target_states(tiny_target().model, answers, layers=(1,)))) == 2


def test_an_lm_head_is_refused_before_it_drafts() -> None:
    with pytest.raises(FrspecError, match="the target's LM head holds NaN or infinity"):
        lm_head_of(_spoilt("lm_head.weight", float("nan")).model)


@pytest.fixture(scope="module")
def spoilt(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in a folder, with one NaN."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("spoilt")
    for path in tiny_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _commands(folder: Path, model: Path) -> dict[str, list]:
    prompts, answers = folder / "prompts.jsonl", folder / "answers.jsonl"
    prompts.write_text('{"prompt": "the fox"}\n')
    record = {"prompt_token_ids": [5, 6, 7], "response_token_ids": [8, 9, 10, 11], "finish": "length"}
    answers.write_text("".join(json.dumps(record | {"id": f"a{n}"}) + "\n" for n in range(40)))
    return {
        "generate": ["the fox", "-n", 4],
        "verify": ["--prompts", prompts, "--method", "lookup", "-n", 4],
        "collect": [prompts, "--out", folder / "out.jsonl", "-n", 4],
        "bench": ["--suite", prompts, "--methods", "ar,lookup", "--out", folder / "bench.json", "-n", 4],
        "train-draft": [answers, "--out", folder / "head", "--epochs", 1],
    }


@pytest.mark.parametrize("command", ["generate", "verify", "collect", "bench", "train-draft"])
def test_every_command_stops_in_one_sentence(cli, spoilt: Path, tmp_path: Path, command: str) -> None:
    arguments = _commands(tmp_path, spoilt)[command]
    code, out, err = cli(command, *arguments, "--model", spoilt, "--device", "cpu", "--dtype", "float32")
    assert code == 1, err
    said = " ".join(err.split())
    assert "the target computes NaN or infinity" in said
    assert "first in layer 2." in said
    assert "lossless" not in said + out
    assert not (tmp_path / "head").exists()
    if command != "bench":  # which names the first of all prompts that failed, and its reason
        assert "Its weight model.layers.2.mlp.down_proj.weight is not finite: get the model again." in said


def test_a_float16_logit_is_not_divided_into_infinity() -> None:
    """At a small temperature sampling is greedy; in float16 all large logits became infinite, and the first was taken."""
    from frspec_cli.decoding.engine import _scores

    logits = torch.tensor([[10.0, 30.0, 20.0]], dtype=torch.float16)
    warpers = Sampling(temperature=1e-4).warpers()
    assert int(_scores(logits, warpers, torch.zeros(1, 3), torch.tensor([0])).argmax()) == 1
