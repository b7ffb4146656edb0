"""Training as a process: stopped by Ctrl-C, killed without warning, and still the same bits at the end."""

from __future__ import annotations

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

TRAIN = ["--epochs", 12, "--batch-tokens", 64, "--steps", 2, "--validate-every", 40, "--sampled-rows", 16]
TRAIN += ["--threads", 1, "--device", "cpu", "--dtype", "float32", "--checkpoint-seconds", 0]


@pytest.fixture(scope="module")
def answers(tiny_answers) -> Path:
    return tiny_answers


def command(answers: Path, model: Path, out: Path) -> list[str]:
    return [*map(str, ["train-draft", answers, "--model", model, "--out", out, "--features", out.parent / "f", *TRAIN])]


GATED = """
import sys, time
from pathlib import Path
from frspec_cli.cli.app import main
from frspec_cli.training.trainer import Trainer

gate, step = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
run = Trainer.run

def gated(self):
    for record in run(self):
        yield record
        while record.step >= step and not gate.exists():
            time.sleep(0.002)

Trainer.run = gated
main()
"""
"""The command line; after step `step` it waits until the file `gate` exists, so that no run ends before its signal."""


def begin(arguments: list[str], *start: str) -> subprocess.Popen[str]:
    """Starts the command; `start` in place of `-m frspec_cli`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    started = [sys.executable, *(start or ("-m", "frspec_cli")), *arguments]
    return subprocess.Popen(started, env=environment, stderr=subprocess.PIPE, text=True)


def signalled(arguments: list[str], out: Path, step: int, number: int) -> tuple[int, str]:
    """Runs the command and sends it the signal once `step` steps are logged; (exit code, stderr)."""
    metrics, gate = out.with_name(out.name + ".training") / "metrics.jsonl", out.with_name(f"gate-{step}")
    process = begin(arguments, "-c", GATED, str(gate), str(step))
    while not (metrics.is_file() and f'"step": {step},' in metrics.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(number)
    gate.touch()
    _, err = process.communicate()
    return process.returncode, err


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
    process = begin(command(answers, tiny_folder, out))
    _, err = process.communicate()
    assert process.returncode == 0, err
    return contents(out)


def test_stopped_and_killed_it_ends_in_the_same_bits(answers, tiny_folder, tmp_path, undisturbed):
    out = tmp_path / "head"
    code, err = signalled(command(answers, tiny_folder, out), out, 20, signal.SIGINT)
    assert code == 130, err
    assert "the same command resumes from there" in err
    assert "Traceback" not in err
    code, err = signalled(command(answers, tiny_folder, out), out, 60, signal.SIGKILL)
    assert code == -signal.SIGKILL, err
    process = begin(command(answers, tiny_folder, out))
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert "resumed from step" in err
    assert contents(out) == undisturbed
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_killed_at_random_instants_it_ends_in_the_same_bits(answers, tiny_folder, tmp_path, undisturbed):
    out, draw = tmp_path / "head", random.Random(1)
    for _ in range(12):
        process = begin(command(answers, tiny_folder, out))
        try:
            process.communicate(timeout=draw.uniform(2.0, 9.0))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    process = begin(command(answers, tiny_folder, out))
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert contents(out) == undisturbed
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_collect_killed_at_random_instants_ends_in_the_same_bytes(answers, tiny_folder, tmp_path):
    draw = random.Random(2)
    arguments = ["collect", str(answers.parent / "prompts.jsonl"), "--model", str(tiny_folder), "-n", "400"]
    arguments += ["--batch-size", "2", "--device", "cpu", "--dtype", "float32", "--temperature", "1"]
    for name, kills in (("undisturbed", 0), ("killed", 8)):
        for _ in range(kills):
            process = begin([*arguments, "--out", str(tmp_path / name)])
            try:
                process.communicate(timeout=draw.uniform(3.0, 9.0))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        process = begin([*arguments, "--out", str(tmp_path / name)])
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "undisturbed").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "undisturbed"]
