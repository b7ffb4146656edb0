"""The step benchmark compares ids before it compares times, and says what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import step_time
from frspec_cli.bench.baseline import TransformersBaseline
from frspec_cli.models.target import load_target

ARGUMENTS = ["--dtype", "float32", "--device", "cpu", "--tokens", "6", "--rounds", "3"]


def test_every_arm_at_every_context(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    model = ["--model", str(tiny_folder), "--draft", "random", "--k", "32", "--contexts", "20,50"]
    assert step_time.main([*model, *ARGUMENTS, "--out", str(out)]) == 0
    result = json.loads((out / "cycle.json").read_text())
    assert list(result["contexts"]) == ["20", "50"]
    for arms in result["contexts"].values():
        assert list(arms) == ["ar", "frspec", "transformers, dynamic cache", "transformers, static cache"]
        assert all(figures["equal_ids"] == figures["texts"] == 3 for figures in arms.values())
        assert arms["ar"]["steps"] == arms["transformers, static cache"]["steps"] == 15
        assert arms["ar"]["step_to_plain"] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert arms["frspec"]["tokens_per_step"] >= 1
    shown = capsys.readouterr().out
    assert shown == (out / "cycle.md").read_text()
    assert "| 50 | transformers, static cache |" in shown


def test_a_context_that_does_not_fit_is_a_failure(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    assert step_time.main(["--model", str(tiny_folder), *ARGUMENTS, "--contexts", "507", "--out", str(tmp_path)]) == 1
    assert "a context of 507 does not fit: the model has room for 506" in capsys.readouterr().err
    assert step_time.main(["--contexts", "0"]) == 2


def test_transformers_own_arm_is_plain_greedy_whatever_the_model_asks_for(tiny_folder: Path) -> None:
    """A generation config may hold a penalty for repetition: that would give another text, which is not a baseline."""
    target = load_target(str(tiny_folder), device="cpu", dtype="float32")
    arm = TransformersBaseline(target)
    before = arm.complete([5, 17, 20], max_new_tokens=30, ignore_eos=True)
    target.model.generation_config.repetition_penalty = 5.0
    target.model.generation_config.no_repeat_ngram_size = 1
    after = arm.complete([5, 17, 20], max_new_tokens=30, ignore_eos=True)
    assert after.token_ids == before.token_ids
    assert len(arm.token_seconds) == 29
    assert after.seconds["prefill"] + after.seconds["verify"] == pytest.approx(after.seconds["total"])
    assert sum(arm.token_seconds) <= after.seconds["verify"]
