"""`frspec train-draft` as a user meets it: what the card says, and what is refused."""

from __future__ import annotations

import json
import shlex
import shutil
import signal

import pytest
import torch

from frspec_cli.training.card import quoted_command
from tests.terminals import on_terminal


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


def test_an_estimate_loads_no_weight_and_writes_nothing(cli, answers, tiny_folder, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model, ignore=shutil.ignore_patterns("*.safetensors"))
    common = ["train-draft", answers, "--model", model, "--out", tmp_path / "head", "--estimate", "--json"]
    code, said, err = cli(*common, "--batch-tokens", 60)
    assert code == 0, err
    found = json.loads(said)
    assert (found["features_mode"], found["tokens"], found["target_operations"] > 0) == ("disk", 60, False)
    assert found["total"] == found["target"] + found["head"] + found["step"]
    assert found["features"] == 20 * (5 * 3 * 32 * 2 + 3 * 32 * 8)  # 5 positions, last and two taps; 3 queries
    code, said, _ = cli(*common, "--epochs", 1, "--recompute")
    assert json.loads(said)["features_mode"] == "online"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "model"]


def test_a_hub_id_in_the_command_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    quoted = quoted_command(
        ["train-draft", "/data/my answers.jsonl", "-m", "owner/name", "-o", "out/head", "--init=./old/a"]
    )
    assert quoted == "frspec train-draft 'my answers.jsonl' -m owner/name -o head --init=a"
    assert quoted_command(["answers.jsonl"]) == "frspec train-draft answers.jsonl"


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--loss", "magic"], 2, "--loss magic is not one of sampled, exact, subset."),
        (["--dtype", "float8"], 2, "--dtype float8 is not one of bfloat16, float32, float64."),
        (["--taps", "two"], 2, "--taps two is neither auto, none, nor numbers"),
        (["--device", "warp"], 2, "--device warp is not a device that torch knows"),
        (["--init", "none"], 1, "there is no draft head at none"),
        (["--limit", "1"], 1, "--limit 1 leaves a single answer of"),
        (["--max-tokens", "1"], 1, "--max-tokens 1 leaves 1: at least one is trained on"),
        (["--limit", "2", "--max-tokens", "1"], 1, "of the 2 answers read from"),
    ],
)
def test_wrong_input_is_one_sentence(cli, answers, tiny_folder, tmp_path, more, code, said):
    options = ["--model", tiny_folder, "--out", tmp_path / "head", "--device", "cpu", "--dtype", "float32"]
    found, out, err = cli("train-draft", answers, *options, *more)
    assert (found, out) == (code, "")
    assert said in " ".join(err.split())
    assert not (tmp_path / "head").exists()


def test_answers_of_another_model_are_reported(cli, answers, tiny_folder, tmp_path):
    """Ids that do not spell their texts stop the run; ids that the target would not choose cause a warning."""
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
        (["--layout", "medusa"], "--layout medusa is not one of eagle2, eagle3, fused, mtp."),
        (["--layout", "eagle3"], "name its tokens with --vocab SUBSET"),
        (["--layout", "eagle2", "--vocab", "s.parquet"], "leave out --vocab"),
        (["--layout", "eagle2", "--taps", "1,2"], "leave out --taps"),
        (["--layout", "eagle3", "--vocab", "s.parquet", "--taps", "none"], "leaves it without input"),
        (["--k", "9"], "--k takes a prefix of --vocab"),
        (["--loss", "exact", "--sampled-rows", "9"], "--sampled-rows has no effect with --loss exact"),
        (["--loss", "subset", "--sampled-rows", "9"], "--sampled-rows has no effect with --loss subset"),
        (
            ["--layout", "eagle3", "--vocab", "s.parquet", "--loss", "sampled"],
            "--loss has no effect with --layout eagle3",
        ),
        (
            ["--layout", "eagle3", "--vocab", "s.parquet", "--sampled-rows", "9"],
            "--sampled-rows has no effect with --layout eagle3",
        ),
        (["--taps", "2,-5"], "--taps 2,-5 must be indices of hidden states from 0, ascending, each once"),
        (["--taps", "3,2"], "ascending, each once"),
        (["--taps", "2,2"], "ascending, each once"),
        (["--taps", "99"], "--taps 99: this layout can tap the hidden states 0 to 4 of a target of 4 layers, not 99."),
    ],
)
def test_options_that_mean_nothing_are_refused(cli, answers, tiny_folder, tmp_path, more, said):
    code, _, err = cli("train-draft", answers, "--model", tiny_folder, "--out", tmp_path / "head", *more)
    assert code == 2
    assert said in " ".join(err.split())
    assert list(tmp_path.iterdir()) == [answers]


@pytest.mark.parametrize("taps", ["1,2,4", "0,1,2"])
def test_an_eagle3_head_cannot_tap_what_its_file_has_no_number_for(cli, answers, tiny_folder, tmp_path, taps):
    """Trained for hours, it could not have been loaded: refused before the first step."""
    torch.save(list(range(50)), tmp_path / "subset.pt")
    options = ["--model", tiny_folder, "--layout", "eagle3", "--vocab", tmp_path / "subset.pt", "--device", "cpu"]
    code, _, err = cli("train-draft", answers, *options, "--out", tmp_path / "head", "--taps", taps)
    assert code == 2
    assert "can tap the hidden states 1 to 3 of a target of 4 layers" in " ".join(err.split())
    assert not list(tmp_path.glob("head*"))


def test_the_terms_are_not_guessed_from_a_folders_name(cli, answers, tiny_folder, tmp_path):
    target = shutil.copytree(tiny_folder, tmp_path / "gemma-smollm2-360m")
    options = ["--epochs", 1, "--device", "cpu", "--dtype", "float32", "-q", "--model", target]
    assert cli("train-draft", answers, *options, "--out", tmp_path / "head")[0] == 0
    card = (tmp_path / "head" / "README.md").read_text()
    assert card.startswith("# EAGLE draft head for gemma-smollm2-360m\n")
    assert "See the target's own licence." in card
    assert not any(word in card for word in ("Gemma", "135M", "Apache"))
    (target / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert cli("train-draft", answers, *options, "--out", tmp_path / "second")[0] == 0
    assert "The target's model card names the licence `mit`" in (tmp_path / "second" / "README.md").read_text()


def test_ctrl_c_on_a_terminal_names_the_command_that_resumes(answers, tiny_folder, tmp_path, monkeypatch):
    """Once in the second step of four, then before a step is taken, then not at all."""
    from frspec_cli.training import trainer

    words = ["train-draft", answers, "--model", tiny_folder, "-o", tmp_path / "head", "--epochs", 2, "--taps", "1,2"]
    words += ["--device", "cpu", "--dtype", "float32", "--batch-tokens", 32]
    run, features = trainer.Trainer.run, "preparing the head and the answers"

    def pressed(self):
        for record in run(self):
            if record.step == 2:
                signal.raise_signal(signal.SIGINT)
            yield record

    def at_once(self):
        raise KeyboardInterrupt
        yield

    for steps in (pressed, at_once):
        with monkeypatch.context() as patch:
            patch.setattr(trainer.Trainer, "run", steps)
            code, shown = on_terminal(200, *words)
        command = f"frspec {shlex.join(map(str, words))}"
        said = f"interrupted: what is done is kept in {tmp_path}/head.training. To resume, run: {command}"
        assert (code, " ".join(shown.split()).endswith(said)) == (130, True), shown
        assert features in shown
    code, shown = on_terminal(200, *words)
    assert (code, "resumed from step 2 of" in shown) == (0, True)
