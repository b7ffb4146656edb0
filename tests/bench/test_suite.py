"""A benchmark says what was measured, counts tokens one way, and can tell equal from different."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from frspec_cli.bench.measure import warm_up
from frspec_cli.bench.suite import BenchOptions
from frspec_cli.decoding.engine import Engine
from frspec_cli.errors import UsageError
from frspec_cli.statistics import speedup
from tests.tiny import tiny_target


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    file = tmp_path / "suite.jsonl"
    file.write_text('{"question_id": 81, "category": "writing", "turns": ["the fox", "and?"]}\n{"prompt": "a hen"}\n')
    return file


def test_a_run_is_one_json_with_all_that_was_measured(cli, suite, tiny_folder, tmp_path) -> None:
    out = tmp_path / "result.json"
    arguments = ["--model", tiny_folder, "--dtype", "float32", "--device", "cpu", "-n", 12]
    code, shown, err = cli("bench", "--suite", suite, "--out", out, "--methods", "ar,lookup,transformers", *arguments)
    assert code == 0, err
    assert "lookup" in shown
    result = json.loads(out.read_text())
    assert [(item["id"], item["method"]) for item in result["prompts"]] == [
        ("81", "ar"), ("81", "lookup"), ("81", "transformers"), ("2", "lookup"), ("2", "transformers"), ("2", "ar"),
    ]  # fmt: skip
    for item in result["prompts"]:
        assert len(item["token_ids"]) == 12
        assert item["cycles"] == len(item["accepted"])
    summary = result["summary"]
    assert summary["ar"]["acceptance_length"] == 1.0
    assert all(figures["identical"] == {"prompts": 2, "equal": 2, "differences": []} for figures in summary.values())
    assert (
        summary["lookup"]["speedup"]["low"]
        <= summary["lookup"]["speedup"]["value"]
        <= summary["lookup"]["speedup"]["high"]
    )
    against = summary["lookup"]["speedup"]["against"]
    assert against in ("ar", "transformers")
    assert summary[against]["speedup"]["value"] == 1.0
    assert result["options"]["model"] == str(tiny_folder)
    assert result["environment"]["torch"]


def test_a_method_that_is_none_is_usage(cli, suite, tmp_path) -> None:
    code, _, err = cli("bench", "--suite", suite, "--out", tmp_path / "r.json", "--methods", "ar,magic")
    assert code == 2
    assert "--methods names magic" in " ".join(err.split())
    with pytest.raises(UsageError, match="twice"):
        BenchOptions(methods=("ar", "ar"))


def test_a_method_against_itself_has_an_interval_around_one() -> None:
    """A against A, each time drawn anew: 200 runs, and the 95 % interval misses 1.0 in at most 30 (odds of more: 1e-6)."""
    generator = np.random.default_rng(3)
    missed = 0
    for run in range(200):
        work = generator.uniform(1, 4, size=40)
        a, b = (work * generator.lognormal(0, 0.1, size=40) for _ in range(2))
        found = speedup([64] * 40, a.tolist(), [64] * 40, b.tolist(), seed=run)
        missed += not found["low"] <= 1.0 <= found["high"]
    assert missed <= 30


def test_speed_up_is_a_ratio_of_totals() -> None:
    """Two prompts, 10 and 30 tokens in 1 and 9 s against 2 and 10 s: (40 / 10) / (40 / 12), not a mean of ratios."""
    assert speedup([10, 30], [1, 9], [10, 30], [2, 10], seed=0)["value"] == pytest.approx(1.2)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_compiled_is_warmed_up_at_every_cache_length(compiled: bool) -> None:
    """Three prompts of two cache lengths (256 and 512): a length first met while measuring would be timed compiling."""
    engine = Engine(tiny_target(), compiler=(lambda step: step) if compiled else None)
    lengths: list[int] = []
    allocate = engine._allocate

    def noting(tokens: int) -> None:
        allocate(tokens)
        lengths.append(engine.buffer.length)

    engine._allocate = noting  # type: ignore[method-assign]
    prompts = [[5] * 20, [6] * 30, [7] * 300]
    warm_up(engine, prompts, max_new_tokens=20)
    assert lengths == ([256, 512] if compiled else [256])
