"""The command: prompts and recorded answers, what is written, a killed run that resumes, and what it refuses."""

from __future__ import annotations

import json

import pytest

from frspec_cli import storage
from frspec_cli.training.card import answers_on_card


@pytest.fixture
def doctor(cli, folder, tiny_folder):
    """Runs the doctor on the tiny head: `doctor("--answers", ...)` -> (exit code, stdout, stderr)."""

    def run(*more):
        named = ["--model", tiny_folder, "--draft", folder / "head", "--vocab", folder / "s.parquet", "--tree", "3,1,4"]
        return cli("doctor", *named, "--device", "cpu", "--dtype", "float64", *more)

    return run


def test_recorded_answers(doctor, folder):
    code, out, err = doctor("--answers", folder / "answers.jsonl", "--limit", 4, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["answers"]["answers"] == 4
    assert found["readings"][0]["acceptance_length"] >= found["readings"][-1]["acceptance_length"]
    assert {"taps", "fc_order", "window", "rope"} <= {row["cause"] for row in found["readings"]}
    assert found["prompts"] == {}
    assert found["checks"]["generation_prompt"] == {"text": "<|turn|>assistant\n", "share": 1.0}
    assert found["checks"]["tokenizer"] is None
    assert found["expect"][-1] == {"what": "the most that this tree can", "acceptance_length": 4.0, "times": None}
    assert abs(sum(found["limits"].values()) - 1) < 1e-9


def test_prompts_are_put_in_other_ways_too(doctor, folder):
    code, out, err = doctor("--answers", folder / "prompts.jsonl", "--limit", 3, "-n", 6)
    assert code == 0, err
    said = " ".join(err.split())
    assert "tokens accepted a cycle under each reading of the head's files, with 95% intervals:" in said
    assert "Without the chat template, the same prompts have " in said
    assert "Without the generation prompt, the same prompts have " in said
    assert "Cycles end: " in said
    assert "Next: - " in said
    assert out.splitlines()[0].split("\t") == ["reading", "accepted", "against its files'", "accepts"]
    assert "Nothing is said by task: none has 8 answers." in said
    assert "as it is served now\t" in out


def test_the_findings_are_written_and_a_killed_run_resumes(doctor, folder, tmp_path, monkeypatch):
    out = tmp_path / "doctor.json"
    arguments = ["--answers", folder / "prompts.jsonl", "--limit", 3, "-n", 6, "--out", out]
    written, replays = [], storage.write_json

    def killed_at_the_tenth(path, value):
        if len(written) == 10:
            raise KeyboardInterrupt
        written.append(path.name)
        replays(path, value)

    monkeypatch.setattr(storage, "write_json", killed_at_the_tenth)
    code, _, _ = doctor(*arguments)
    assert code == 130
    assert not out.exists()
    kept = {part.name: part.stat().st_mtime_ns for part in (tmp_path / "doctor.json.ledger").iterdir()}
    assert "cycles-0000.json" in kept
    assert "answers-000000.json" in kept
    monkeypatch.setattr(storage, "write_json", lambda path, value: (written.append(path.name), replays(path, value)))
    code, _, err = doctor(*arguments)
    assert code == 0, err
    assert "resuming a stopped run" in err
    assert len(written) == len(set(written))  # nothing was done twice
    resumed = json.loads(out.read_text())
    assert not (tmp_path / "doctor.json.ledger").exists()
    code, stdout, _ = doctor(*arguments[:-2], "--json")
    whole = json.loads(stdout)
    assert {name: resumed[name] for name in whole} == whole
    assert resumed["kind"] == "doctor"
    code, _, err = doctor(*arguments)
    assert (code, "is complete: the same inputs made it" in " ".join(err.split())) == (0, True)
    code, _, err = doctor(*arguments[:-2], "--seed", 5, "--out", out)
    assert code == 1
    assert "--seed was 0, now it is 5" in " ".join(err.split())


def test_answers_that_it_was_trained_on_are_told(doctor, folder, tmp_path, cli, tiny_folder):
    trained = tmp_path / "head"
    made = ["train-draft", folder / "answers.jsonl", "--model", tiny_folder, "--out", trained, "--epochs", 1]
    code, _, err = cli(*made, "--device", "cpu", "--dtype", "float32")
    assert code == 0, err
    assert answers_on_card(trained) == {"answers.jsonl"}
    asked = ["--draft", trained, "--answers", folder / "answers.jsonl", "--limit", 4, "--json"]
    found = json.loads(doctor(*asked)[1])
    assert [fault["cause"] for fault in found["faults"] if fault["cause"] == "training_data"] == ["training_data"]
    assert any("its card says" in fault["what"] and "answers.jsonl" in fault["what"] for fault in found["faults"])
    assert (found["checks"]["target_weights"], found["checks"]["tokenizer"]) == (True, True)
    held_out = json.loads(doctor(*asked, "--held-out")[1])
    assert held_out["answers"]["answers"] == 1  # of eight answers the middle one
    assert held_out["checks"]["trained_on"] is None


def test_a_head_of_another_tokenizer_is_told(doctor, folder, tmp_path):
    head = tmp_path / "head"
    head.mkdir()
    for part in (folder / "head").iterdir():
        (head / part.name).write_bytes(part.read_bytes())
    config = json.loads((head / "config.json").read_text())
    (head / "config.json").write_text(json.dumps(config | {"tokenizer_fingerprint": "0" * 64}))
    code, out, err = doctor("--draft", head, "--answers", folder / "answers.jsonl", "--limit", 2, "--json")
    assert code == 0, err
    assert "tokenizer" in [fault["cause"] for fault in json.loads(out)["faults"]]


def test_prompts_recorded_without_the_template_are_told(doctor, folder, tmp_path):
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    bare = tmp_path / "bare.jsonl"
    bare.write_text(
        "".join(json.dumps(line | {"prompt_token_ids": line["prompt_token_ids"][4:-4]}) + "\n" for line in lines)
    )
    code, out, err = doctor("--answers", bare, "--limit", 3, "--json")
    assert code == 0, err
    [fault] = [fault for fault in json.loads(out)["faults"] if fault["cause"] == "template"]
    assert fault["what"].startswith("only 0% of the recorded prompts end as the model's chat template ends them")


REFUSED = {
    "--held-out": "error: --held-out has no effect without --answers.",
    "--restart": "error: --restart has no effect without --out.",
    "--force": "error: --force has no effect without --out.",
    "--answers {prompts} --held-out": "--held-out is for recorded answers; ",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_an_option_without_a_meaning_is_refused(typed, doctor, folder):
    code, _, err = doctor(*typed.format(prompts=folder / "prompts.jsonl").split())
    assert code == 2
    assert REFUSED[typed] in " ".join(err.split())


def test_a_head_is_needed(cli, tiny_folder):
    code, _, err = cli("doctor", "--model", tiny_folder, "--device", "cpu", "--dtype", "float32")
    assert (code, " ".join(err.split())) == (
        1,
        "error: there is no draft head to look into. Name one with --draft.",
    )
