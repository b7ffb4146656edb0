"""The attack notices what it is there to notice, and frspec stands a few trials of it."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
from pathlib import Path

import pytest

from benchmarks.attack import __main__ as attack
from benchmarks.attack import damage, hostile, interrupts, trials
from frspec_cli.errors import FrspecError


def _raise(error: Exception) -> str:
    raise error


def test_crashes_tracebacks_and_hangs_are_failures() -> None:
    assert trials.in_a_process(lambda: "") == ""
    assert trials.in_a_process(lambda: _raise(FrspecError("a sentence."))) == ""
    assert trials.in_a_process(lambda: "other bytes") == "other bytes"
    reason = trials.in_a_process(lambda: _raise(ZeroDivisionError("a bug")))
    assert reason.startswith("a traceback: ZeroDivisionError: a bug (test_attack.py:")
    assert trials.in_a_process(lambda: os.kill(os.getpid(), signal.SIGSEGV) or "") == "it died of SIGSEGV"
    assert trials.in_a_process(lambda: signal.pause() or "", seconds=1) == "not done after 1 seconds"
    assert trials.in_a_process(lambda: str(len(bytes(1 << 30))), memory=1 << 28).startswith("a traceback: MemoryError")


def test_a_command_that_is_refused_is_fine_and_its_exit_code_is_known(tmp_path: Path) -> None:
    assert trials.in_a_process(lambda: str(trials.run("inspect", tmp_path / "none"))) == "1"
    assert trials.in_a_process(lambda: str(trials.run("inspect", "--none"))) == "2"


def test_the_pickles_of_the_attack_do_run_code(tmp_path: Path) -> None:
    """Otherwise that none did would mean nothing."""
    pickle.loads(hostile.packed(str(tmp_path / "canary"))["pickle"])
    assert (tmp_path / "canary").exists()


def test_outputs_that_differ_and_what_is_left_behind_are_failures(tmp_path: Path) -> None:
    expected, out = tmp_path / "made" / "counts", tmp_path / "run" / "counts"
    for path in (expected, out):
        path.parent.mkdir()
        path.write_bytes(b"whole")
    assert interrupts._differences(out, expected) == ""
    (out.parent / ".counts.1-0.tmp").touch()
    assert interrupts._differences(out, expected) == "left behind: ['.counts.1-0.tmp']"
    (out.parent / ".counts.1-0.tmp").unlink()
    out.write_bytes(b"who")
    assert interrupts._differences(out, expected) == "other bytes than undisturbed"


@pytest.mark.parametrize("change", [damage._change_json, damage._change_lines, damage._change_bytes])
def test_the_seed_gives_the_change(change, tmp_path: Path) -> None:
    changed = []
    for number in (1, 1, 2):
        (tmp_path / "x").write_text('{"a": [1, {"b": null}], "c": "text"}\n')
        change(tmp_path / "x", random.Random(number))
        changed.append((tmp_path / "x").read_bytes())
    assert changed[0] == changed[1] != changed[2]


@pytest.mark.slow
def test_a_few_trials_of_the_quick_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "attack.json"
    kinds = ["truncations", "records"]
    arguments = [each for kind in kinds for each in ("--kind", kind)]
    assert attack.main(["--seed", "3", "--trials-share", "0.01", "--out", str(out), *arguments]) == 0
    result = json.loads(out.read_text())
    assert result["seed"] == 3
    assert [row["kind"] for row in result["kinds"]] == kinds
    assert all(row["trials"] and not row["failures"] for row in result["kinds"])
    assert "seed 3" in capsys.readouterr().out


def test_a_failure_is_exit_code_3(monkeypatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(attack, "make_files", lambda made: None)
    monkeypatch.setitem(attack.KINDS, "records", lambda *_: iter([("one", lambda: ""), ("two", lambda: "wrong")]))
    assert attack.main(["--kind", "records"]) == 3
    out = capfd.readouterr().out
    assert "  records, two: wrong\n" in out
    assert "records           2 trials     1 failures" in out
