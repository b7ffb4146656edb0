"""A benchmark says what was measured, counts tokens one way, and can tell equal from different."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from frspec_cli.answers.repetition import repeated_4grams
from frspec_cli.bench.baseline import TransformersBaseline
from frspec_cli.bench.measure import Measurement, read_run, warm_up
from frspec_cli.bench.options import BenchOptions
from frspec_cli.bench.suite import _identical
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.generation import Generation
from frspec_cli.decoding.state import Workspace
from frspec_cli.decoding.tree import Tree
from frspec_cli.errors import ArtifactError, UsageError, option
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


def test_runs_are_kept_apart_and_the_first_method_is_its_own_null(cli, suite, tiny_folder, tmp_path) -> None:
    out = tmp_path / "result.json"
    arguments = ["--model", tiny_folder, "--dtype", "float32", "--device", "cpu", "-n", 12, "--runs", 2, "--json"]
    code, shown, err = cli("bench", "--suite", suite, "--out", out, "--methods", "ar,lookup", *arguments)
    assert code == 0, err
    result = json.loads(out.read_text())
    assert [(item["id"], item["method"], item["run"]) for item in result["prompts"]] == [
        ("81", "ar", 0), ("81", "lookup", 0), ("81", "lookup", 1), ("81", "ar", 1),
        ("2", "ar", 0), ("2", "lookup", 0), ("2", "ar", 1), ("2", "lookup", 1),
    ]  # fmt: skip
    assert result["null"]["arm"] == "ar"
    low, value, high = (result["null"]["ratio"][name] for name in ("low", "value", "high"))
    assert 0 < low <= value <= high
    assert result["null"]["contains_one"] == (low <= 1 <= high)
    assert json.loads(shown)["null"] == result["null"]
    lookup = result["summary"]["lookup"]
    assert lookup["identical"] == {"prompts": 4, "equal": 4, "differences": []}
    assert lookup["decode_speedup"]["low"] <= lookup["decode_speedup"]["value"] <= lookup["decode_speedup"]["high"]
    assert result["options"]["suite"] == suite.name
    texts = {item["id"]: item["token_ids"] for item in result["prompts"]}
    assert result["repetition"]["all"] == repeated_4grams(texts.values())
    assert result["repetition"]["categories"] == {
        "": repeated_4grams([texts["2"]]),
        "writing": repeated_4grams([texts["81"]]),
    }


def test_transformers_caches_and_its_lookup_are_baselines(cli, suite, tiny_folder, tmp_path) -> None:
    """Greedy ids are equal; lookup's accepted tokens and cycles make up its new tokens."""
    out, names = tmp_path / "result.json", "ar,transformers-static,transformers-lookup"
    arguments = ["--model", tiny_folder, "--dtype", "float32", "--device", "cpu", "-n", 24]
    code, _, err = cli("bench", "--suite", suite, "--out", out, "--methods", names, *arguments)
    assert code == 0, err
    result = json.loads(out.read_text())
    for name in names.split(","):
        assert result["summary"][name]["identical"] == {"prompts": 2, "equal": 2, "differences": []}
    for item in result["prompts"]:
        if item["method"] == "transformers-lookup":
            assert len(item["token_ids"]) == sum(item["accepted"]) + item["cycles"]
    assert result["summary"]["transformers-static"]["acceptance_length"] == 1.0
    assert result["summary"]["ar"]["speedup"]["against"] in ("ar", "transformers-static")


def test_sampled_runs_have_seeds_of_their_own_and_equal_ids_for_every_method(cli, suite, tiny_folder, tmp_path) -> None:
    def run(name, *more):
        out = tmp_path / name
        arguments = [
            "--model",
            tiny_folder,
            "--dtype",
            "float64",
            "--device",
            "cpu",
            "-n",
            12,
            "--temperature",
            1,
            *more,
        ]
        code, _, err = cli("bench", "--suite", suite, "--out", out, "--methods", "ar,lookup,transformers", *arguments)
        assert code == 0, err
        result = json.loads(out.read_text())
        ids = {(each["id"], each["run"]): each["token_ids"] for each in result["prompts"] if each["method"] == "ar"}
        return result, ids

    result, drawn = run("a.json", "--runs", 2, "--seed", 5)
    assert result["summary"]["lookup"]["identical"] == {"prompts": 4, "equal": 4, "differences": []}
    assert result["summary"]["transformers"]["identical"] is None
    assert drawn["81", 0] != drawn["81", 1]
    _, second = run("b.json", "--seed", 6)
    assert (second["81", 0], second["2", 0]) == (drawn["81", 1], drawn["2", 1])


def test_repeated_four_grams() -> None:
    """1 2 3 4 1 2 3 4 1 has six 4-grams, two of them seen before."""
    assert repeated_4grams([[1, 2, 3, 4, 1, 2, 3, 4, 1], [5, 6, 7]]) == pytest.approx(2 / 6)
    assert repeated_4grams([]) == repeated_4grams([[1, 2]]) == 0


def test_a_method_that_does_not_exist_is_usage(cli, suite, tmp_path) -> None:
    code, _, err = cli("bench", "--suite", suite, "--out", tmp_path / "r.json", "--methods", "ar,magic")
    assert code == 2
    assert "--methods magic is not one of" in " ".join(err.split())
    with pytest.raises(UsageError, match="twice"):
        BenchOptions(methods=("ar", "ar"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "ar,eagle", "--k", "8"], "--k has no effect on ar and eagle: it is for frspec only."),
        (
            ["--methods", "eagle", "--context-slots", "4"],
            "--context-slots has no effect on eagle: it is for frspec only.",
        ),
        (
            ["--methods", "ar,lookup", "--draft", "x"],
            "--draft has no effect on ar and lookup: it is for eagle and frspec",
        ),
        (["--methods", "ar,eagle", "--vocab", "x"], "--vocab has no effect on ar and eagle: it is for frspec only."),
        (["--nodes", "3000"], "--nodes 3000 is not between 2 and 2,048."),
        (["--replay"], "--replay is now a command of its own. See frspec replay --help."),
        (["--held-out"], "there is no option --held-out."),
        (["--stop-at-eos"], "there is no option --stop-at-eos."),
        (["--temperature", "-1"], "--temperature -1.0 is negative."),
    ],
)
def test_options_that_no_method_reads_are_usage(cli, suite, tmp_path, more, message) -> None:
    """Before a model is loaded: none is named here, and the default one is not fetched."""
    code, out, err = cli("bench", "--suite", suite, "--out", tmp_path / "r.json", *more)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_an_output_that_cannot_be_written_is_known_before_a_model_is(cli, suite, tmp_path) -> None:
    for command in ("bench", "profile"):
        code, _, err = cli(command, "--suite", suite, "--out", tmp_path, "--model", tmp_path / "no-model")
        assert code == 1
        assert "is a folder" in err


@pytest.fixture
def four_prompts(tmp_path: Path) -> Path:
    """Four prompts; the third does not fit into the tiny model's context."""
    file = tmp_path / "four.jsonl"
    texts = ["the fox", "a hen", "the fox " * 300, "one by one"]
    file.write_text("".join(json.dumps({"id": f"p{i}", "prompt": text}) + "\n" for i, text in enumerate(texts)))
    return file


TINY = ["--dtype", "float32", "--device", "cpu", "-n", "12", "--methods", "ar,lookup,transformers"]


def test_a_prompt_that_fails_is_counted_and_the_others_are_measured(cli, four_prompts, tiny_folder, tmp_path) -> None:
    out = tmp_path / "result.json"
    code, _shown, err = cli("bench", "--suite", four_prompts, "--out", out, "--model", tiny_folder, *TINY)
    assert code == 0, err
    assert "4 prompts (1 failed)" in err
    assert "prompt p2 failed" in " ".join(err.split())
    result = json.loads(out.read_text())
    assert [each["id"] for each in result["failures"]] == ["p2"]
    assert "do not fit into the model's context of 512" in result["failures"][0]["reason"]
    assert {figures["failed"] for figures in result["summary"].values()} == {1}
    assert {item["id"] for item in result["prompts"]} == {"p0", "p1", "p3"}
    assert result["summary"]["lookup"]["identical"] == {"prompts": 3, "equal": 3, "differences": []}


def test_a_run_in_which_every_prompt_fails_is_a_failure(cli, four_prompts, tiny_folder, tmp_path) -> None:
    out = tmp_path / "result.json"
    code, _, err = cli("bench", "--suite", four_prompts, "--out", out, "--model", tiny_folder, *TINY, "-n", 511)
    assert code == 1
    assert "all 4 prompts failed, the first (p0) because" in " ".join(err.split())
    assert [path.name for path in tmp_path.iterdir()] == [four_prompts.name]


KILLED_AT_THE_THIRD = """
import os, signal, sys
from frspec_cli import storage
from frspec_cli.cli.app import main

original, written = storage.write_json, []

def write_json(path, value):
    written.append(path)
    if len(written) == 4:  # the first is what the run depends on
        os.kill(os.getpid(), signal.SIGKILL)
    original(path, value)

storage.write_json = write_json
main()
"""


def test_kill_9_loses_one_prompt_at_most(cli, four_prompts, tiny_folder, tmp_path) -> None:
    out = tmp_path / "result.json"
    arguments = ["bench", "--suite", four_prompts, "--out", out, "--model", tiny_folder, *TINY]
    run = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_THIRD, *map(str, arguments)],
        capture_output=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as in this process: a run resumes with as many threads only
    )
    assert (run.returncode, out.exists()) == (-signal.SIGKILL, False), run.stderr
    before = {path.name: path.read_bytes() for path in (tmp_path / "result.json.ledger").glob("prompt-*.json")}
    assert sorted(before) == ["prompt-000000.json", "prompt-000001.json"]
    code, _, err = cli(*arguments, "-n", 9)
    assert (code, "--max-new-tokens was 12, now it is 9" in " ".join(err.split())) == (1, True), err
    code, _, err = cli(*arguments)
    assert code == 0, err
    assert "resuming a stopped run" in err
    result = json.loads(out.read_text())
    assert len(result["prompts"]) == 3 * 3
    assert [each["id"] for each in result["failures"]] == ["p2"]
    first = json.loads(before["prompt-000000.json"])["value"][0][0]
    assert result["prompts"][0]["seconds"]["total"] == round(first["seconds"]["total"], 6)


def _measurement(**changes: Any) -> dict[str, Any]:
    seconds = {"total": 2.0, "prefill": 0.5, "draft": 0.5}
    return Measurement("ar", Generation([5, 6], [0, 1], 0, 3, "", seconds, [0.1, 0.2])).as_json() | changes


def test_a_recorded_measurement_is_what_was_measured() -> None:
    assert Measurement.read(_measurement(), file="x").as_json() == _measurement()
    assert [each.arm for each in read_run([_measurement(), _measurement(arm="b")], "x", ["b", "ar"])] == ["ar", "b"]


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        (None, "x: its content is null; expected a list of measurements."),
        ([], "x: its content is of nothing; expected measurements of ar."),
        ([_measurement(), _measurement()], "x: its content is of ar, ar; expected measurements of ar."),
        ([5], "x: its content is 5; expected a JSON object."),
        ([_measurement(token_ids=["a"])], "x: token_ids.0 is 'a'; expected a whole number."),
        ([_measurement(accepted=[-1])], "x: accepted.0 is -1; expected at least 0."),
        ([_measurement(seconds={})], "x: seconds is an empty object; expected seconds of total, prefill and draft."),
        ([{"arm": "ar"}], "x: token_ids is missing; expected a value."),
    ],
)
def test_a_damaged_measurement_is_named(records: Any, sentence: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        read_run(records, "x", ["ar"])
    assert caught.value.message == sentence
    assert caught.value.hint == f"{option('restart')} measures from the beginning."


def test_equal_ids_are_compared_by_their_place_in_the_suite() -> None:
    """Two prompts of one name and different texts: each is compared with its own."""
    plain = [Generation(token_ids=[1, 2, 3]), Generation(token_ids=[4, 5, 6])]
    texts = [Generation(token_ids=[1, 2, 3]), Generation(token_ids=[4, 9, 6])]
    assert _identical(texts, plain, ["same", "same"]) == {
        "prompts": 2,
        "equal": 1,
        "differences": [{"prompt": "same", "position": 1}],
    }


def test_the_baseline_gives_the_attention_back_when_generate_fails(monkeypatch) -> None:
    target = tiny_target()
    engine = Engine(target)
    expected = engine.complete([5, 17, 20], max_new_tokens=8).token_ids
    ours = target.model.config._attn_implementation

    def broken(*arguments, **keywords):
        assert target.model.config._attn_implementation != ours
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(target.model), "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        TransformersBaseline(target).complete([5, 17], max_new_tokens=8)
    assert target.model.config._attn_implementation == ours
    assert engine.complete([5, 17, 20], max_new_tokens=8).token_ids == expected


def test_what_is_compiled_is_warmed_up_at_every_length(monkeypatch) -> None:
    """A number of attended slots first met while measuring would be timed compiling."""
    monkeypatch.setattr("frspec_cli.decoding.cache.FIRST_BUCKET", 128)
    ends: list[int] = []

    def recording(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(workspace: Workspace, tree: Tree, count: torch.Tensor, end: int, *others: Any) -> Any:
            ends.append(end)
            return step(workspace, tree, count, end, *others)

        return run

    engine = Engine(tiny_target(), compiler=recording)
    prompts = [[5] * 20, [6] * 600, [7] * 300]  # the second is too long for the model
    warm_up(engine, prompts, max_new_tokens=20)
    assert ends == [512, 512, 512, 256, 256, 256, 128, 128, 128]
    workspace = engine.workspace(0)
    for ids in prompts[::2]:
        engine.complete(ids, max_new_tokens=20, ignore_eos=True)
    assert set(ends[9:]) == {128, 512}
    assert engine.workspace(0) is workspace
