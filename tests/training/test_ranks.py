"""Several processes, and several batches a step: the same training, but for the rounding of sums."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.tiny import run_cli

TRAIN = ["--batch-tokens", 48, "--steps", 2, "--sampled-rows", 16, "--validate-every", 1000, "--dtype", "float32"]
TRAIN += ["--device", "cpu", "--threads", 1, "--learning-rate", 1e-3]


def command(answers: Path, model: Path, out: Path, *more: object) -> list[str]:
    where = [] if "--features-mode" in more else ["--features", out.parent / "f"]
    arguments = ["train-draft", answers, "--model", model, "--out", out, *where, *TRAIN, *more]
    return [*map(str, arguments)]


def torchrun(*arguments: object, program: tuple[str, ...] = ("frspec_cli",)) -> subprocess.CompletedProcess[str]:
    """Two processes, run as `torchrun --standalone --nproc-per-node 2 -m frspec_cli train-draft ...` runs them."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "-m", *program, *command(*arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )


def train_in_two(*arguments: object) -> Path:
    finished = torchrun(*arguments)
    assert finished.returncode == 0, finished.stderr
    return arguments[2]


def train_here(*arguments: object) -> Path:
    code, _, err = run_cli(*command(*arguments))
    assert code == 0, err
    return arguments[2]


def losses(out: Path) -> np.ndarray:
    lines = (out.with_name(out.name + ".training") / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return np.array([record["loss"] for record in records if "loss" in record])


def same(two: Path, one: Path) -> bool:
    ours, theirs = (load_file(out.with_name(out.name + ".training") / "checkpoint.safetensors") for out in (two, one))
    close = [
        float((ours[name] - theirs[name]).norm() / theirs[name].norm()) < 1e-3
        for name in theirs
        if name.startswith("weight.")
    ]
    return ours.keys() == theirs.keys() and all(close)


def test_two_processes_take_the_steps_of_one(tiny_answers, tiny_folder, tmp_path):
    """Answers of unequal lengths; the last step of a pass has one batch, so that one process has nothing to do."""
    few = tmp_path / "answers.jsonl"
    few.write_text("".join(f"{line}\n" for line in tiny_answers.read_text().splitlines()[:18]))
    options = ["--epochs", 1, "--seed", 1]
    two = train_in_two(few, tiny_folder, tmp_path / "two", *options)
    one = train_here(few, tiny_folder, tmp_path / "one", *options, "--accumulate", 2)
    assert len(losses(one)) == len(losses(two)) >= 2
    assert np.allclose(losses(two), losses(one), rtol=1e-4)
    assert same(two, one)
    assert json.loads((tmp_path / "two.training" / "run.json").read_text())["processes"] == 2
    assert "| command | `torchrun --nproc-per-node 2 -m frspec_cli train-draft " in (two / "README.md").read_text()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_online(tiny_answers, tiny_folder, tmp_path):
    options = ["--epochs", 2, "--features-mode", "online"]
    two = train_in_two(tiny_answers, tiny_folder, tmp_path / "two", *options)
    one = train_here(tiny_answers, tiny_folder, tmp_path / "one", *options, "--accumulate", 2)
    assert len(losses(one)) == len(losses(two)) >= 5
    assert np.allclose(losses(two), losses(one), rtol=1e-4)
    assert same(two, one)
    assert not list(tmp_path.rglob("features-*"))


@pytest.mark.slow
def test_two_processes_stay_with_one_over_fifty_steps(tiny_answers, tiny_folder, tmp_path):
    options = ["--epochs", 12]
    two = train_in_two(tiny_answers, tiny_folder, tmp_path / "two", *options)
    one = train_here(tiny_answers, tiny_folder, tmp_path / "one", *options, "--accumulate", 2)
    assert len(losses(one)) >= 50
    assert np.allclose(losses(two)[:50], losses(one)[:50], rtol=1e-4)


@pytest.mark.slow
def test_ctrl_c_stops_both_after_one_step_and_they_resume(tiny_answers, tiny_folder, tmp_path):
    arguments = tiny_answers, tiny_folder, tmp_path / "head", "--epochs", 12
    stopped = torchrun(*arguments, program=("tests.training.signalled", "5", "SIGINT", "parent"))
    assert stopped.returncode != 0
    assert stopped.stderr.count("stopped at step 6") == 1, stopped.stderr
    again = torchrun(*arguments)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("resumed from step 6 of") == 1
    undisturbed = train_in_two(tiny_answers, tiny_folder, tmp_path / "undisturbed", *arguments[3:])
    assert np.array_equal(losses(tmp_path / "head"), losses(undisturbed))
