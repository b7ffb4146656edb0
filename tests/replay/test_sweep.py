"""`replay` reports what `bench` would have measured, and why no more was accepted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from frspec_cli import storage
from frspec_cli.answers.records import Answer, read_answers
from frspec_cli.replay import arms as arms_module
from frspec_cli.replay import suite as suite_module
from frspec_cli.replay import sweep
from frspec_cli.replay.cycles import MISSES
from frspec_cli.replay.report import describe, figures
from frspec_cli.tokens.tokenizer import load_tokenizer


@pytest.fixture
def arguments(folder, tiny_folder):
    parts = ["--model", tiny_folder, "--draft", folder / "head", "--vocab", folder / "s.parquet"]
    return [*parts, "--device", "cpu", "--dtype", "float64", "--json"]


def run(cli, *arguments):
    code, out, err = cli(*arguments)
    assert code == 0, err
    result = json.loads(out)
    with open(result["out"]) as file:
        return result, json.load(file)


def test_accepted_counts_are_those_of_the_timed_run(cli, folder, tmp_path, arguments):
    common = [folder / "prompts.jsonl", "-n", 24, "--k", 160, "--k", 60, "--tree", "5,4,16", *arguments]
    _, timed = run(cli, "bench", "--suite", *common, "--out", tmp_path / "timed.json")
    shown, replayed = run(cli, "replay", *common, "--out", tmp_path / "replayed.json")
    expected = {(each["id"], each["method"]): each["accepted"] for each in timed["prompts"] if each["method"] != "ar"}
    assert {(each["id"], each["method"]): each["accepted"] for each in replayed["prompts"]} == expected
    assert sum(map(sum, expected.values())) > 0
    assert list(shown["summary"]) == ["eagle", "frspec@160", "frspec@60", "frspec"]
    for name, each in replayed["summary"].items():
        assert each["acceptance_length"] == pytest.approx(timed["summary"][name]["acceptance_length"])
        assert sum(each["misses"].values()) == each["cycles"]
        assert list(each["misses"]) == list(MISSES)
        assert list(each["categories"]) == ["a", "b"]
        assert sum(some["cycles"] for some in each["categories"].values()) == each["cycles"]
        assert each["first_32"]["value"] == pytest.approx(each["acceptance_length"])  # only 24 tokens
    assert replayed["summary"]["eagle"]["misses"]["outside"] == 0
    assert replayed["summary"]["frspec@60"]["misses"]["outside"] > 0


def test_context_slots_accept_what_the_timed_run_does(cli, folder, tmp_path, arguments):
    common = [folder / "prompts.jsonl", "-n", 24, "--k", 60, "--tree", "5,4,16", *arguments]
    _, timed = run(cli, "bench", "--suite", *common, "--context-slots", 8, "--out", tmp_path / "timed.json")
    slots = ["--context-slots", 0, "--context-slots", 8, "--context-slots", 300]
    shown, replayed = run(cli, "replay", *common, *slots, "--out", tmp_path / "replayed.json")
    assert list(shown["summary"]) == ["eagle", "frspec", "frspec+8", "frspec+300"]
    by_arm = {
        name: [each["accepted"] for each in replayed["prompts"] if each["method"] == name] for name in shown["summary"]
    }
    assert by_arm["frspec+8"] == [each["accepted"] for each in timed["prompts"] if each["method"] == "frspec"]
    found = [shown["summary"][name] for name in ("frspec", "frspec+8", "frspec+300")]
    assert [(each["k"], each["context_slots"]) for each in found] == [(60, 0), (60, 8), (60, 300)]
    outside = [each["misses"]["outside"] / each["cycles"] for each in found]
    assert outside == sorted(outside, reverse=True)
    assert outside[2] < outside[0]


def test_recorded_answers_several_heads_and_trees(cli, folder, tmp_path, arguments):
    shown, result = run(
        cli, "replay", folder / "answers.jsonl", "--out", tmp_path / "r.json", "--methods", "frspec",
        *arguments, "--draft", folder / "head", "--tree", "3,2,6", "--tree", "1,2,3",
    )  # fmt: skip
    names = ["frspec head 1 3,2,6", "frspec head 1 1,2,3", "frspec head 2 3,2,6", "frspec head 2 1,2,3"]
    assert list(shown["summary"]) == names
    first, second = (result["summary"][name] for name in (names[0], names[2]))
    assert first["cycles"] == second["cycles"] > 0
    assert (first["depth"], first["beam"], first["nodes"], first["k"]) == (3, 2, 6, 160)
    answers = read_answers(folder / "answers.jsonl", vocab_size=320)
    assert shown["answers"]["tokens"] == sum(answer.response_length for answer in answers)
    assert {each["id"] for each in result["prompts"]} == {answer.id for answer in answers}
    code, out, _ = cli("inspect", tmp_path / "r.json", "--json")
    assert (code, json.loads(out)["kind"]) == (0, "bench-result")


def test_a_curve_and_what_is_kept_of_the_full_vocabulary(cli, folder, tmp_path, arguments, monkeypatch):
    monkeypatch.setattr(arms_module, "SMALLEST_ON_CURVE", 40)
    command = [
        "replay",
        folder / "answers.jsonl",
        "--limit",
        4,
        *arguments[:-1],
        "--curve",
        "--out",
        tmp_path / "r.json",
    ]
    code, out, err = cli(*command, "--by", "language", "--by", "position")
    assert code == 0, err
    for heading in ("kept (95% CI)", "depth 1", "Latin", "33-128"):
        assert heading in out
    assert "acceptance by language" in err
    assert "acceptance by position" in err
    assert "acceptance by task" not in err
    summary = json.loads((tmp_path / "r.json").read_text())["summary"]
    assert list(summary) == ["eagle", "frspec@160", "frspec@80", "frspec@40", "frspec"]
    for size in (160, 80, 40):
        each = summary[f"frspec@{size}"]
        assert (each["k"], each["against"], each["vocab"]) == (size, "eagle", str(folder / "s.parquet"))
        ratio = each["acceptance_length"] / summary["eagle"]["acceptance_length"]
        assert each["kept"]["value"] == pytest.approx(ratio)
    outside = [summary[f"frspec@{size}"]["misses"]["outside"] for size in (160, 80, 40)]
    assert outside == sorted(outside)
    assert outside[0] < outside[2]
    assert (summary["eagle"]["kept"], summary["eagle"]["vocab"]) == (None, None)


def test_what_comes_after_the_end_of_sequence_is_apart(cli, folder, tmp_path, arguments, tiny_folder):
    """Answers with an end of sequence set into their middle have the figures of answers that were cut there."""
    eos = load_tokenizer(str(tiny_folder)).eos_ids[0]
    records = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()][:4]
    longer, cut = tmp_path / "longer.jsonl", tmp_path / "cut.jsonl"
    for path, end in ((longer, None), (cut, 21)):
        with path.open("w") as file:
            for record in records:
                ids = record["response_token_ids"]
                ids = [*ids[:20], eos, *ids[20:]][:end]
                finish = "stop" if end else "length"
                file.write(json.dumps(record | {"response_token_ids": ids, "finish": finish}) + "\n")
    shown, result = run(cli, "replay", longer, *arguments, "--ignore-eos", "--out", tmp_path / "longer.json")
    _, expected = run(cli, "replay", cut, *arguments, "--out", tmp_path / "expected.json")
    _, without = run(cli, "replay", longer, *arguments, "--out", tmp_path / "without.json")
    assert result["prompts"] == expected["prompts"] == without["prompts"]
    assert shown["answers"]["tokens"] == 4 * 21
    assert shown["answers"]["after_eos_tokens"] == sum(len(each["response_token_ids"]) - 20 for each in records)
    after = result["summary"]["eagle"]["after_eos"]
    assert (after["answers"], after["tokens"]) == (4, shown["answers"]["after_eos_tokens"])
    assert after["cycles"] > 0
    assert without["summary"]["eagle"]["after_eos"] is None


def test_the_table_is_for_people(cli, folder, tmp_path, arguments):
    code, out, err = cli("replay", folder / "answers.jsonl", "--out", tmp_path / "r.json",
                         *arguments[:-1])  # fmt: skip
    assert code == 0
    assert "not in subset" in out
    assert "acceptance by task" in err
    assert f"wrote {tmp_path / 'r.json'}" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "lookup"], "a replay compares eagle and frspec, not lookup."),
        (["--tree", "3,x"], "--tree 3,x is not a tree."),
        (["--tree", "0,1,2"], "--tree 0,1,2 is not a tree."),
        (["--tree", "3,2,6", "--tree", "3,2,6"], "--tree lists a value twice."),
        (["--context-slots", "4", "--context-slots", "4"], "--context-slots lists a value twice."),
        (
            ["--methods", "eagle", "--context-slots", "4"],
            "--context-slots has no effect on eagle: it is for frspec only.",
        ),
        (["--profile"], "there is no option --profile."),
        (["--compile"], "there is no option --compile."),
        (["--methods", "eagle", "--k", "8"], "--k has no effect on eagle: it is for frspec only."),
        (["--held-out"], "--held-out is for recorded answers; "),
        (["--stop-at-eos"], "there is no option --stop-at-eos."),
        (["--curve", "--k", "8"], "--curve chooses the sizes itself: leave out --k."),
        (["--methods", "eagle", "--curve"], "--curve has no effect on eagle: it is for frspec only."),
        (["--by", "script"], "--by is one of task, language, position, not script."),
    ],
)
def test_wrong_options_are_usage(cli, folder, tmp_path, arguments, more, message):
    code, out, err = cli("replay", folder / "prompts.jsonl", "--out", tmp_path / "r.json", *arguments, *more)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_bench_no_longer_replays(cli, folder, tmp_path):
    code, _, err = cli("bench", "--suite", folder / "prompts.jsonl", "--out", tmp_path / "r.json", "--replay")
    assert code == 2
    assert "See frspec replay --help." in " ".join(err.split())


def test_several_subsets_are_told_apart_and_the_full_head_runs_once(cli, folder, tmp_path, arguments):
    shown, result = run(
        cli, "replay", folder / "answers.jsonl", "--out", tmp_path / "r.json", *arguments,
        "--vocab", folder / "s.parquet", "--limit", 3,
    )  # fmt: skip
    assert list(shown["summary"]) == ["eagle", "frspec vocab 1", "frspec vocab 2"]
    first, second = (result["summary"][f"frspec vocab {number}"] for number in (1, 2))
    assert first["cycles"] == second["cycles"] > 0
    assert result["options"]["vocabs"] == [str(folder / "s.parquet")] * 2


class Killed(Exception):
    """Stands for a process that dies."""


@pytest.mark.parametrize("suite", ["prompts.jsonl", "answers.jsonl"])
@pytest.mark.parametrize("after", [2, 3, 4])
def test_a_killed_replay_resumes_to_the_same_result(
    cli, folder, tmp_path, arguments, monkeypatch, suite: str, after: int
):
    """It dies as its next group of prompts or answers is to land; groups are made small, so that there are several."""
    monkeypatch.setattr(sweep, "_GROUP_TOKENS", 150)
    monkeypatch.setattr(suite_module, "_ANSWERED_TOGETHER", 4)
    command = ["replay", folder / suite, "-n", 12, *arguments, "--out"]
    _, whole = run(cli, *command, tmp_path / "whole.json")
    original, written = storage.write_json, []

    def write_json(path, value):
        if len(written) == after:
            raise Killed
        written.append(path.name)
        original(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_json", write_json)
        with pytest.raises(Killed):
            cli(*command, tmp_path / "result.json")
    assert not (tmp_path / "result.json").exists()
    ran = []
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_json", lambda path, value: ran.append(path.name) or original(path, value))
        _, resumed = run(cli, *command, tmp_path / "result.json")
    assert resumed == whole
    assert set(ran).isdisjoint(written)
    code, _, err = cli(*command[:-1], "--k", 60, "--force", "--out", tmp_path / "result.json")
    assert code == 0, err  # a finished run leaves nothing behind that could refuse


def test_what_does_not_fit_is_counted_and_named(cli, folder, tmp_path, arguments):
    prompts = tmp_path / "prompts.jsonl"
    long = json.dumps({"id": "long", "category": "b", "prompt": "the fox " * 300})
    prompts.write_text((folder / "prompts.jsonl").read_text() + long + "\n")
    code, out, err = cli("replay", prompts, "-n", 12, *arguments, "--out", tmp_path / "r.json")
    assert code == 0, err
    assert "prompt long is left out" in " ".join(err.split())
    result = json.loads((tmp_path / "r.json").read_text())
    assert [each["id"] for each in result["failures"]] == ["long"]
    assert "do not fit into the model's context of 512" in result["failures"][0]["reason"]
    assert {figures["failed"] for figures in result["summary"].values()} == {1}
    assert len(json.loads(out)["failures"]) == 1
    prompts.write_text(long + "\n")
    code, _, err = cli("replay", prompts, "-n", 12, *arguments, "--out", tmp_path / "r2.json")
    assert code == 1
    assert "none of the 1 prompts can be replayed, the first (long) because" in " ".join(err.split())


def test_repeated_four_grams_are_counted_within_an_answer() -> None:
    """1 2 3 4 1 2 3 4 1 has six 4-grams, two of them seen before; the prompt's tokens count for nothing."""
    answer = Answer(np.array([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1]), 4, finished=True, greedy=True)
    assert describe([answer])["repeated_4grams"] == pytest.approx(2 / 6)
    assert describe([answer, Answer(np.array([1, 2, 3]), 1, True, True)])["repeated_4grams"] == pytest.approx(2 / 6)
    assert figures([], seed=0)["acceptance_length"] is None
