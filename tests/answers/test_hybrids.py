"""Targets with linear attention answer in batches as they answer alone: their state ignores the padding on the left."""

from __future__ import annotations

import json

import pytest
import torch

from frspec_cli.answers.batched_decode import TokenizedPrompt, decode_batch
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.models.target import load_target
from tests.mtp import HYBRIDS, save_mtp_target

PROMPTS = [(5, 17, 20, 11), (3,), (7, 7, 9, 1, 22, 23, 4, 8, 15, 16, 2, 3, 90, 301, 44), (60, 61)]


@pytest.mark.parametrize("family", HYBRIDS)
def test_a_batch_gives_what_each_prompt_gives_alone(tmp_path, family) -> None:
    target = load_target(str(save_mtp_target(tmp_path / family, family)), device="cpu", dtype="float64", hybrid=True)
    prompts = [TokenizedPrompt(str(number), "", ids) for number, ids in enumerate(PROMPTS)]
    found = decode_batch(target, prompts, max_new_tokens=16, sampling=Sampling(), ignore_eos=True)
    for ids, completion in zip(PROMPTS, found, strict=True):
        text = torch.tensor([ids])
        with torch.no_grad():
            for _ in range(16):  # without any cache or padding
                text = torch.cat((text, target.model(text, use_cache=False).logits[:, -1:].argmax(-1)), 1)
        assert list(completion.ids) == text[0, len(ids) :].tolist()


def test_answers_that_end_leave_the_batch(tmp_path) -> None:
    """Rows leave once half are done; what is left goes on from its own state."""
    target = load_target(str(save_mtp_target(tmp_path / "q", "Qwen3Next")), device="cpu", dtype="float64", hybrid=True)
    prompts = [TokenizedPrompt(str(number), "", ids) for number, ids in enumerate(PROMPTS)]
    whole = decode_batch(target, prompts, max_new_tokens=16, sampling=Sampling(), ignore_eos=True)
    target.model.generation_config.eos_token_id = [each.ids[number + 1] for number, each in enumerate(whole[:3])]
    target.__dict__.pop("eos_ids", None)
    found = decode_batch(target, prompts, max_new_tokens=16, sampling=Sampling())
    ends = set(target.eos_ids)
    for each, full in zip(found, whole, strict=True):
        stop = next((index + 1 for index, token in enumerate(full.ids) if token in ends), 16)
        assert each.ids == full.ids[:stop]
    assert any(each.stopped for each in found)


def test_collect_answers_for_a_hybrid(cli, tmp_path) -> None:
    folder = save_mtp_target(tmp_path / "q", "Qwen3_5Text")
    (tmp_path / "p.jsonl").write_text('{"prompt": "the fox"}\n{"prompt": "a hen runs away from the fox"}\n')
    common = ["--model", folder, "--device", "cpu", "--dtype", "float64"]
    code, _, err = cli("collect", tmp_path / "p.jsonl", *common, "-n", 12, "--out", tmp_path / "a.jsonl")
    assert code == 0, err
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2
    code, out, err = cli(
        "replay",
        tmp_path / "a.jsonl",
        *common,
        "--draft",
        "mtp",
        "--methods",
        "eagle",
        "--json",
        "--out",
        tmp_path / "r",
    )
    assert code == 0, err
    assert json.loads(out)["answers"]["answers"] == 2
