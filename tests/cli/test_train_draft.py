"""`frspec train-draft` as a user meets it: what the card says, and what is refused."""

from __future__ import annotations

import json

import pytest

from frspec_cli.cli.train_draft import command_line


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.jsonl"
    lines = [
        {"prompt_token_ids": [5, 6 + n], "response_token_ids": [n, n + 1, n + 2, n + 3], "finish": "length"}
        for n in range(2, 22)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_card_quotes_the_command_and_names_files_without_their_folders(cli, answers, tiny_folder, tmp_path):
    out = tmp_path / "heads" / "mine"
    code, said, err = cli(
        "train-draft", answers, "--model", tiny_folder, f"--out={out}", "--epochs", 1, "--taps", "1,2",
        "--features", tmp_path / "features", "--device", "cpu", "--dtype", "float32", "--json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads(said)
    assert set(result) == {"out", "acceptance_length", "steps"}
    assert result["out"] == str(out)
    card = (out / "README.md").read_text()
    assert card.startswith(f"# EAGLE draft head for {tiny_folder.name}\n")
    command = "frspec train-draft answers.jsonl --model tiny-llama --out=mine --epochs 1 --taps 1,2"
    assert f"| command | `{command} --features features --device cpu --dtype float32 --json` |" in card
    assert str(tmp_path) not in card
    assert str(tiny_folder.parent) not in card + (out / "config.json").read_text()
    assert (out / "model.safetensors").stat().st_mode & 0o777 == answers.stat().st_mode & 0o777


def test_a_hub_id_in_the_command_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    told = command_line(
        ["train-draft", "/data/my answers.jsonl", "-m", "owner/name", "-o", "out/head", "--init=./old/a"]
    )
    assert told == "frspec train-draft 'my answers.jsonl' -m owner/name -o head --init=a"
    assert command_line(["answers.jsonl"]) == "frspec train-draft answers.jsonl"


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--loss", "magic"], 2, "--loss magic is not one of sampled, exact, subset."),
        (["--dtype", "float8"], 2, "--dtype float8 is not one of bfloat16, float32, float64."),
        (["--taps", "two"], 2, "--taps two is neither auto, none, nor numbers"),
        (["--device", "warp"], 2, "--device warp is no device that torch knows"),
        (["--init", "none"], 1, "there is no draft head at none"),
        (["--limit", "1"], 1, "holds a single answer"),
    ],
)
def test_wrong_input_is_one_sentence(cli, answers, tiny_folder, tmp_path, more, code, said):
    options = ["--model", tiny_folder, "--out", tmp_path / "head", "--device", "cpu", "--dtype", "float32"]
    found, out, err = cli("train-draft", answers, *options, *more)
    assert (found, out) == (code, "")
    assert said in " ".join(err.split())
    assert not (tmp_path / "head").exists()
