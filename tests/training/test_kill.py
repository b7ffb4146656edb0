"""Training as a process: stopped by Ctrl-C, killed without warning, and still the same bits at the end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from tests.conftest import ROOT

TRAIN = ["--epochs", 12, "--batch-tokens", 64, "--steps", 2, "--validate-every", 40, "--sampled-rows", 16]
TRAIN += ["--threads", 1, "--device", "cpu", "--dtype", "float32", "--checkpoint-seconds", 0]


@pytest.fixture(scope="module")
def answers(tiny_answers) -> Path:
    return tiny_answers


def command(answers: Path, model: Path, out: Path, *, online: bool = False) -> list[str]:
    where = ["--features-mode", "online"] if online else ["--features", out.parent / "f"]
    return [*map(str, ["train-draft", answers, "--model", model, "--out", out, *where, *TRAIN])]


def begin(arguments: list[str], *, program: tuple[str, ...] = ("frspec_cli",)) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", *program, *arguments]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def run(arguments: list[str], *, program: tuple[str, ...] = ("frspec_cli",)) -> tuple[int, str]:
    """(exit code, stderr)"""
    process = begin(arguments, program=program)
    _, err = process.communicate()
    return process.returncode, err


def signalled(arguments: list[str], step: int, name: str) -> tuple[int, str]:
    """A run that gets the signal in the step after `step`; (exit code, stderr)."""
    return run(arguments, program=("tests.training.signalled", str(step), name, "self"))


def contents(out: Path) -> dict[str, object]:
    """Everything that a run leaves: the head, and the checkpoint tensor by tensor."""
    folder = out.with_name(out.name + ".training")
    found: dict[str, object] = {path.name: path.read_bytes() for path in out.iterdir()}
    found["metrics.jsonl"] = (folder / "metrics.jsonl").read_text()
    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        found["metadata"] = file.metadata()
    tensors = load_file(folder / "checkpoint.safetensors")
    found |= {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    return found


@pytest.fixture(scope="module")
def undisturbed(answers, tiny_folder, tmp_path_factory) -> dict[str, object]:
    out = tmp_path_factory.mktemp("undisturbed") / "head"
    code, err = run(command(answers, tiny_folder, out))
    assert code == 0, err
    return contents(out)


def test_stopped_and_killed_it_ends_in_the_same_bits(answers, tiny_folder, tmp_path, undisturbed):
    out = tmp_path / "head"
    code, err = signalled(command(answers, tiny_folder, out), 20, "SIGINT")
    assert code == 130, err
    assert "stopped at step 21" in err
    assert "To resume, run: frspec train-draft" in err
    assert "Traceback" not in err
    code, err = signalled(command(answers, tiny_folder, out), 60, "SIGKILL")
    assert code == -signal.SIGKILL, err
    code, err = run(command(answers, tiny_folder, out))
    assert code == 0, err
    assert "resumed from step 60 of" in err
    assert contents(out) == undisturbed
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_killed_without_files_for_features_it_ends_in_the_same_bits(answers, tiny_folder, tmp_path):
    undisturbed, killed = (
        command(answers, tiny_folder, tmp_path / name, online=True) for name in ("undisturbed", "killed")
    )
    assert run(undisturbed)[0] == 0
    assert signalled(killed, 60, "SIGKILL")[0] == -signal.SIGKILL
    code, err = run(killed)
    assert code == 0, err
    assert "resumed from step 60 of" in err
    both = [contents(tmp_path / name) for name in ("killed", "undisturbed")]
    for each in both:
        each["README.md"] = each["README.md"].replace(b"--out killed", b"--out undisturbed")
    assert both[0] == both[1]
    assert not list(tmp_path.rglob("features-*"))


def kill_at_random(arguments: list[str], out: Path, draw: random.Random, *, kills: int) -> None:
    """Runs the command so often, and kills it at a random instant after it has saved something more.

    How far it comes until then, and whether it ends before, is the machine's: nothing depends on it.
    """
    for _ in range(kills):
        before, process = saved(out), begin(arguments)
        while process.poll() is None and saved(out) == before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        process.kill()
        process.communicate()


def saved(out: Path) -> list[tuple[str, int]]:
    """What there is in the folders of the runs that write `out`: name and time of each file."""
    folders = [out.with_name(out.name + suffix) for suffix in (".training", ".ledger")]
    found = []
    for path in (path for folder in folders for path in folder.rglob("[!.]*")):
        with contextlib.suppress(FileNotFoundError):  # the run has put another in its place
            found.append((path.name, path.stat().st_mtime_ns))
    return sorted(found)


@pytest.mark.slow
def test_killed_at_random_instants_it_ends_in_the_same_bits(answers, tiny_folder, tmp_path, undisturbed):
    out = tmp_path / "head"
    kill_at_random(command(answers, tiny_folder, out), out, random.Random(1), kills=12)
    code, err = run(command(answers, tiny_folder, out))
    assert code == 0, err
    assert contents(out) == undisturbed
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_collect_killed_at_random_instants_ends_in_the_same_bytes(answers, tiny_folder, tmp_path):
    arguments = ["collect", str(answers.parent / "prompts.jsonl"), "--model", str(tiny_folder), "-n", "400"]
    arguments += ["--batch-size", "2", "--device", "cpu", "--dtype", "float32", "--temperature", "1"]
    killed = tmp_path / "killed"
    kill_at_random([*arguments, "--out", str(killed)], killed, random.Random(2), kills=8)
    for name in ("killed", "undisturbed"):
        code, err = run([*arguments, "--out", str(tmp_path / name)])
        assert code == 0, err
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "undisturbed").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "undisturbed"]
