"""An output that is there already: complete for the same inputs, refused for others, replaced with --force."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import TEXT

# What makes the output, and what differs in a command that would make another.
COMMANDS = {
    "count-freq": ("count-freq {out}/text.jsonl -t {model} -o {out}/o.parquet", "--max-document-bytes 9000"),
    "build-vocab": ("build-vocab {run}/counts.parquet --model {model} -o {out}/o.parquet", "--k 9 | --k 8"),
    "export-vocab": ("export-vocab {run}/s.parquet --to sglang -o {out}/o.pt", "--k 9"),
    "export-vocab, a folder": ("export-vocab {run}/s.parquet --to speculators -o {out}/o", "--k 9"),
    "import-vocab": ("import-vocab {out}/ids.txt --tokenizer {model} -o {out}/o.parquet", "--vocab-rows 400"),
    "import-answers": ("import-answers {out}/batch.jsonl --model {model} -o {out}/o.jsonl", "--template-arg x=1 | "),
    "collect": ("collect {run}/prompts.jsonl --model {model} --limit 2 -o {out}/o.jsonl {precision}", "-n 4 | -n 5"),
    "verify": ("verify --model {model} --prompts {run}/prompts.jsonl {head} --limit 2 -o {out}/o.json", "-n 4 | -n 5"),
    "bench": (
        "bench --suite {run}/prompts.jsonl --model {model} {head} --limit 2 -o {out}/o.json {precision}",
        "-n 4 | -n 5",
    ),
    "replay": ("replay {run}/answers.jsonl --model {model} {head} --limit 3 -o {out}/o.json {precision}", "--seed 3"),
    "doctor": (
        "doctor --answers {run}/answers.jsonl --model {model} {head} --limit 2 --tree 2,1,3 -o {out}/o.json {precision}",
        "--seed 3",
    ),
    "profile": (
        "profile --suite {run}/prompts.jsonl --model {model} {head} --limit 1 -o {out}/o.json {precision}",
        "-n 4 | -n 5",
    ),
    "train-draft": (
        "train-draft {run}/answers.jsonl --model {model} --epochs 1 --taps 1,2 -o {out}/o {precision}",
        "--seed 3",
    ),
}
SAME_ANYHOW = ("import-answers",)
RESTARTS = ("train-draft",)  # what it leaves beside its output also says what it was begun with


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """The bytes and the time of every output."""
    outputs = [file for each in folder.glob("o*") for file in (each.rglob("*") if each.is_dir() else [each])]
    kept = [file for file in outputs if file.is_file() and ".training" not in str(file)]
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in kept}


@pytest.fixture
def typed(folder: Path, tiny_folder: Path, tmp_path: Path, cli: Any) -> Any:
    """Runs a line of `COMMANDS`."""
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in TEXT))
    (tmp_path / "ids.txt").write_text("0\n9\n7\n")
    choice = {"message": {"content": "hen", "role": "assistant"}, "finish_reason": "stop", "token_ids": [7, 0]}
    (tmp_path / "batch.jsonl").write_text(json.dumps({"choices": [choice], "prompt_token_ids": [5]}) + "\n")
    places = {"run": folder, "out": tmp_path, "model": tiny_folder, "precision": "--device cpu --dtype float32"}
    places["head"] = f"--draft {folder}/head --vocab {folder}/s.parquet"
    return lambda line: cli(*line.format(**places).split())


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_that_is_there(name: str, typed: Any, tmp_path: Path) -> None:
    command, change = COMMANDS[name]
    first, _, second = change.rpartition("|")
    code, _, err = typed(f"{command} {first}")
    assert code == 0, err
    made = state(tmp_path)
    assert made

    code, _, err = typed(f"{command} {first}")
    assert (code, "complete" in err) == (0, True), err
    assert state(tmp_path) == made

    if name in SAME_ANYHOW:
        return
    code, out, err = typed(f"{command} {second}")
    assert (code, out) == (1, ""), err
    assert ("--restart" if name in RESTARTS else "--force replaces it; or choose another --out.") in err
    assert state(tmp_path) == made

    code, _, err = typed(f"{command} {second} --force {'--restart' * (name in RESTARTS)}")
    assert code == 0, err
    after = state(tmp_path)
    assert after.keys() == made.keys()
    assert any(after[file][0] != made[file][0] for file in made)


def test_a_complete_output_is_an_object_for_programs(typed: Any, tmp_path: Path) -> None:
    command, _ = COMMANDS["count-freq"]
    typed(command)
    code, out, err = typed(f"{command} --json")
    assert (code, json.loads(out), err) == (0, {"out": f"{tmp_path}/o.parquet", "complete": True}, "")
    code, _, err = typed(f"{command} --restart")
    assert (code, "documents" in err) == (0, True)


def test_another_text_of_the_same_size_is_another_text(typed: Any, tmp_path: Path) -> None:
    command, _ = COMMANDS["count-freq"]
    typed(command)
    text = (tmp_path / "text.jsonl").read_text()
    (tmp_path / "text.jsonl").write_text(text.replace("fox", "box"))
    code, _, err = typed(command)
    assert (code, " ".join(err.split())) == (
        1,
        f"error: {tmp_path}/o.parquet exists and was not made by this command: text.jsonl has changed. --force replaces it; or "
        "choose another --out.",
    )


def test_a_limit_does_not_tell_the_same_text(typed: Any) -> None:
    command, _ = COMMANDS["count-freq"]
    typed(f"{command} --limit-documents 2")
    code, _, err = typed(f"{command} --limit-documents 2")
    assert (code, "whether it is the same text cannot be told" in err) == (1, True), err


def test_a_file_of_another_kind_needs_force(typed: Any, tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text("important\n")
    command = "bench --suite {run}/prompts.jsonl --model {model} {head} --limit 1 -n 2 --methods ar -o {out}/o.json"
    code, _, err = typed(command)
    assert (code, f"--out {tmp_path}/o.json exists and is not a result." in err) == (1, True)
    assert "--force replaces it; or choose another --out." in err
    assert (tmp_path / "o.json").read_text() == "important\n"


def test_a_verification_that_failed_still_fails_when_it_is_there(typed: Any, tmp_path: Path) -> None:
    command = COMMANDS["verify"][0] + " -n 4"
    assert typed(command)[0] == 0
    result = json.loads((tmp_path / "o.json").read_text())
    (tmp_path / "o.json").write_text(json.dumps(result | {"passed": False}))
    code, _, err = typed(command)
    assert (code, "complete: the same inputs made it, and it did not pass." in err) == (3, True), err


def test_a_finished_run_whose_head_is_gone(typed: Any, tmp_path: Path) -> None:
    command = COMMANDS["train-draft"][0]
    assert typed(command)[0] == 0
    os.rename(tmp_path / "o", tmp_path / "moved")
    code, _, err = typed(command)
    assert (code, "holds a finished run, but its head" in err) == (1, True), err
