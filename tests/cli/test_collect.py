"""`frspec collect` as a user meets it."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "the fox"}\n{"prompt": "a lighthouse keeper"}\n')
    return path


@pytest.fixture
def model(tiny_folder):
    return ["--model", str(tiny_folder), "--dtype", "float32", "--device", "cpu", "-n", "6"]


def test_answers_are_written_and_counted(cli, model, prompts, tmp_path):
    out = tmp_path / "answers.jsonl"
    code, said, err = cli("collect", prompts, *model, "--out", out, "--json")
    assert (code, err) == (0, "")
    result = json.loads(said)
    assert set(result) == {"out", "answers", "tokens", "stopped", "left_out", "seconds", "tokens_per_second"}
    assert (result["out"], result["answers"]) == (str(out), 2)
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert sum(len(record["response_token_ids"]) for record in records) == result["tokens"]
    code, said, err = cli("collect", prompts, *model, "--out", out, "--restart")
    assert (code, said) == (0, "")
    assert err.strip().endswith(f"-> {out}")
    generated = json.loads(cli("generate", "the fox", *model, "--method", "ar", "--json", "-q")[1])
    assert generated["token_ids"] == records[0]["response_token_ids"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["collect", "--out", "a.jsonl"], 2, "--prompts is missing."),
        (["collect", "prompts.jsonl"], 2, "--out is missing."),
        (["collect", "none.jsonl", "--out", "a.jsonl"], 1, "there is no file none.jsonl."),
        (["collect", "none.jsonl", "--out", "a.jsonl", "--top-p", "0.5"], 2, "have no effect at --temperature 0"),
        (["collect", "none.jsonl", "--out", "a.jsonl", "--batch-size", "0"], 2, "--batch-size"),
    ],
)
def test_wrong_input_is_one_sentence(cli, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    found, out, err = cli(*arguments)
    assert (found, out) == (code, "")
    assert said in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no prompts."),
        ('{"prompt": "x"}\n{"query": "?"}\n', "line 2 is not a prompt."),
        ("{\n", "line 1 is not valid JSON"),
    ],
)
def test_a_file_that_holds_no_prompts(cli, model, tmp_path, content, said):
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    code, out, err = cli("collect", path, *model, "--out", tmp_path / "a.jsonl")
    assert (code, out) == (1, "")
    assert said in " ".join(err.split())
    assert list(tmp_path.iterdir()) == [path]


def test_a_broken_container_is_named(cli, model, tmp_path):
    import zstandard

    path = tmp_path / "prompts.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b'{"prompt": "the fox"}\n' * 3000)[:-9])
    code, _, err = cli("collect", path, *model, "--out", tmp_path / "a.jsonl")
    assert code == 1
    assert f"{path} is broken: the zstd data ends too early" in " ".join(err.split())
    assert "--skip-broken-files" not in err


def test_no_room_for_a_prompt(cli, model, prompts, tmp_path):
    code, _, err = cli("collect", prompts, *model[:-1], "600", "--out", tmp_path / "a.jsonl")
    assert code == 1
    assert "--max-new-tokens 600 leaves no room for a prompt in the model's context of 512." in " ".join(err.split())
