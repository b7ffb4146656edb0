"""`frspec verify` as a user meets it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def model(tiny_folder: Path) -> list[str]:
    return ["--model", str(tiny_folder), "--device", "cpu", "--method", "lookup", "-n", "20", "--stock", "0"]


def test_a_lossless_run_says_so(cli, model) -> None:
    code, out, err = cli("verify", *model, "--limit", 2)
    assert code == 0
    assert "greedy, re-scored" in out
    assert "seeded sampling" in out
    assert "lossless on these prompts" in err


def test_a_run_in_a_terminal(model) -> None:
    """Bars are drawn in a terminal only: this is the one test in which `verify` draws them, before it knows the total."""
    arguments = [sys.executable, "-m", "frspec_cli", "verify", *model, "--limit", "2"]
    main, terminal = pty.openpty()
    run = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=terminal, stdin=subprocess.DEVNULL)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's way of saying that the terminal's other end is closed
        while chunk := os.read(main, 4096):
            shown += chunk
    os.close(main)
    assert run.wait() == 0, shown.decode()
    assert b"verifying" in shown
    assert b"lossless on these prompts" in shown


def test_json_is_one_object(cli, model) -> None:
    code, out, _ = cli("verify", *model, "--limit", 2, "--json", "-q", "--dtype", "float64")
    result = json.loads(out)
    assert code == 0
    assert (result["passed"], result["prompts"], result["identical"], result["differences"]) == (True, 2, 2, [])
    assert result["sampling"]["identical"] == 2


def test_a_lossy_run_exits_with_3(cli, model, monkeypatch) -> None:
    from frspec_cli.decoding import engine
    from frspec_cli.decoding.walk import walk

    def lossy(tree, chosen, depth):
        return walk(tree, chosen if tree.nodes == 1 else (chosen + 1) % 320, depth)

    monkeypatch.setattr(engine, "walk", lossy)
    code, _, err = cli("verify", *model, "--limit", 1)
    assert code == 3
    assert "DIFFERENCE: greedy, re-scored, prompt 1, token 1" in err
    assert "from plain decoding's, and rounding does not explain it" in " ".join(err.split())


def test_a_difference_in_reduced_precision_only_has_its_own_message() -> None:
    from frspec_cli.cli.verify import _failure

    near = {"check": "greedy, re-scored", "explained": True}
    error = _failure([{"check": "greedy, bfloat16", "explained": False}, near], "bfloat16")
    assert error.exit_code == 3
    assert "1 output differs" in error.message
    assert "--dtype float32" in error.hint


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "ar"], "--method ar is not one of eagle, frspec, lookup."),
        (["--method", "lookup", "--k", "8"], "--k has no effect on lookup: it is for frspec only."),
        (["--method", "lookup", "--draft", "x"], "--draft has no effect on lookup: it is for eagle and frspec only."),
        (["--method", "eagle", "--vocab", "x"], "--vocab has no effect on eagle: it is for frspec only."),
        (["--float32", "skip"], "--float32 skip has no effect with --dtype float32."),
        (["--float32", "no"], "--float32 no is not one of check, skip."),
        (["--restart"], "--restart has no effect without --out."),
    ],
)
def test_wrong_options_are_usage(cli, more, message) -> None:
    code, out, err = cli("verify", *more)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


@pytest.mark.slow
def test_transformers_alone_scores_some_texts(cli, model) -> None:
    """In its own process, from the model's folder."""
    code, out, err = cli("verify", *model, "--limit", 2, "--stock", 1, "--json")
    assert code == 0, err
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert checks["greedy, by transformers alone"]["prompts"] == 1
    assert checks["greedy, by transformers alone"]["identical"] == 1
    assert "scoring 1 texts by transformers alone, in a process of its own" in " ".join(err.split())


def test_what_rounding_does_is_said(cli, model) -> None:
    """Below float32: how far one row's logits are from many rows', and what follows from it."""
    code, out, err = cli("verify", *model, "--limit", 1, "--dtype", "bfloat16", "--float32", "skip", "--json")
    assert code == 0, err
    [check] = json.loads(out)["checks"]
    assert check["name"] == "greedy, bfloat16"
    assert check["rounding"] >= 0
    said = f"differs by up to {check['rounding']:.3g} here, so margins up to {2 * check['rounding']:.3g} are near ties"
    assert said in " ".join(err.split())


def test_the_padded_reference_is_gone(cli) -> None:
    code, _, err = cli("verify", "--reference", "padded")
    assert code == 2
    assert "there is no option --reference." in " ".join(err.split())


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Six prompts of two categories, of which the fourth does not fit into the tiny model's context."""
    lines = [
        {"question_id": 80 + number, "category": "ab"[number // 3], "turns": ["the fox " * (400 if number == 3 else 3)]}
        for number in range(6)
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_result_file_holds_everything(cli, model, prompts, tmp_path) -> None:
    out = tmp_path / "result.json"
    code, shown, err = cli("verify", *model, "--prompts", prompts, "--limit", 4, "--stepwise", 2, "--out", out)
    assert code == 0, err
    assert f"lossless on these prompts: wrote {out}" in " ".join(err.split())
    assert "1 prompts do not fit into the model's context and are left out: 83." in " ".join(err.split())
    assert "  a\t" in shown
    result = json.loads(out.read_text())
    assert result["left_out"] == ["83"]
    assert result["checks"][0]["tasks"] == {
        "a": {"prompts": 2, "identical": 2, "share": 1.0},
        "b": {"prompts": 2, "identical": 2, "share": 1.0},
    }
    ids = [(outcome["check"], outcome["prompt"]) for outcome in result["outcomes"]]
    assert [prompt for check, prompt in ids if check == "greedy, re-scored"] == ["80", "81", "84", "85"]
    assert [prompt for check, prompt in ids if check == "greedy, step by step"] == ["80", "84"]
    assert result["options"]["limit"] == 4
    assert result["environment"]["torch"]


KILLED_AT_THE_FOURTH = """
import os, signal, sys
from frspec_cli import storage
from frspec_cli.cli.app import main

original, written = storage.write_json, []

def write_json(path, value):
    written.append(path)
    if len(written) == 5:  # the first is what the run depends on
        os.kill(os.getpid(), signal.SIGKILL)
    original(path, value)

storage.write_json = write_json
main()
"""


def test_kill_9_loses_one_prompt_at_most(cli, model, prompts, tmp_path) -> None:
    """The process kills itself as its fourth outcome is to land."""
    out = tmp_path / "result.json"
    arguments = ["verify", *model, "--prompts", prompts, "--stepwise", 2, "--sampled", 0, "--out", out]
    run = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_FOURTH, *map(str, arguments)], capture_output=True, check=False
    )
    assert (run.returncode, out.exists()) == (-signal.SIGKILL, False), run.stderr
    code, _, err = cli(*arguments, "--seed", 9)
    assert (code, "--seed was 1, now it is 9" in " ".join(err.split())) == (1, True), err
    code, _, err = cli(*arguments)
    assert code == 0, err
    assert "resuming: 3 of 7 outcomes are there" in err
    assert len(json.loads(out.read_text())["outcomes"]) == 7


def test_no_fitting_prompt_is_a_failure(cli, model, prompts) -> None:
    code, _, err = cli("verify", *model, "--prompts", prompts, "-n", 511)
    assert code == 1
    assert "no prompt fits with 511 new tokens into the model's context of 512" in " ".join(err.split())
