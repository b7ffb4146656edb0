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
        (["--device", "warp"], 2, "--device warp is not a device that torch knows"),
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


def test_answers_of_another_model_are_told(cli, answers, tiny_folder, tmp_path):
    """Ids that do not spell their texts stop the run; ids that the target would not choose are warned of."""
    options = ["--model", tiny_folder, "--epochs", 1, "--device", "cpu", "--dtype", "float32", "-q"]
    code, _, err = cli("train-draft", answers, *options, "--out", tmp_path / "strange")
    assert code == 0
    assert "of the answered tokens are the target's own choice, so these are not its answers" in " ".join(err.split())

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"the fox {n}"}) + "\n" for n in range(3)))
    own = tmp_path / "own.jsonl"
    common = ["--model", tiny_folder, "--device", "cpu", "--dtype", "float32", "-q"]
    assert cli("collect", prompts, *common, "--out", own, "-n", 12)[0] == 0
    code, _, err = cli("train-draft", own, *options, "--out", tmp_path / "own")
    assert code == 0
    assert "warning" not in err

    lines = [json.loads(line) for line in own.read_text().splitlines()]
    for line in lines:
        line["response_token_ids"] = [token ^ 1 for token in line["response_token_ids"]]
    own.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = cli("train-draft", own, *options, "--out", tmp_path / "shifted")
    assert code == 1
    assert "was made with another tokenizer than that of" in " ".join(err.split())


def test_a_head_of_another_target_is_no_start(cli, answers, tiny_folder, tmp_path):
    options = ["--model", tiny_folder, "--epochs", 1, "--device", "cpu", "--dtype", "float32", "-q"]
    assert cli("train-draft", answers, *options, "--out", tmp_path / "head")[0] == 0
    path = tmp_path / "head" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"target": "tiny-instruct", "target_weights": "0" * 24}))
    code, _, err = cli("train-draft", answers, *options, "--out", tmp_path / "next", "--init", tmp_path / "head")
    assert code == 1
    assert "is the head of another target, tiny-instruct" in " ".join(err.split())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--layout", "medusa"], "--layout medusa is not one of eagle2, eagle3, fused."),
        (["--layout", "eagle3"], "name its tokens with --vocab SUBSET"),
        (["--layout", "eagle2", "--vocab", "s.parquet"], "leave out --vocab"),
        (["--layout", "eagle2", "--taps", "1,2"], "leave out --taps"),
        (["--layout", "eagle3", "--vocab", "s.parquet", "--taps", "none"], "leaves it without input"),
        (["--k", "9"], "--k takes a prefix of --vocab"),
    ],
)
def test_layouts_that_cannot_be_are_told(cli, answers, tiny_folder, tmp_path, more, said):
    code, _, err = cli("train-draft", answers, "--model", tiny_folder, "--out", tmp_path / "head", *more)
    assert code == 2
    assert said in " ".join(err.split())
