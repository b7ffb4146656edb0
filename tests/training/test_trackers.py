"""Curves: what goes to TensorBoard and wandb, the pace, and the sentence if a package is missing."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.training import trackers
from frspec_cli.training.options import trackers_named
from frspec_cli.training.trackers import Pace, check_trackers, open_trackers, step_values, talk
from frspec_cli.training.trainer import StepRecord

RECORD = StepRecord(step=3, epoch=1, loss=(2.5, 3.5), agreement=(0.61, 0.4), learning_rate=1e-3, tokens=900)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_sentence(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(FrspecError, match=f"log_to {name} needs the package {name}, which is not installed") as caught:
        check_trackers((name,))
    assert caught.value.hint == f"pip install {name}"


def test_a_missing_package_stops_the_command_before_it_writes(cli, tiny_answers, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    common = ["train-draft", tiny_answers, "--model", tiny_folder, "--device", "cpu", "--dtype", "float32"]
    code, _, err = cli(*common, "--out", tmp_path / "head", "--log-to", "wandb")
    assert (code, "--log-to wandb needs the package wandb" in " ".join(err.split())) == (1, True)
    assert not list(tmp_path.iterdir())


def test_names_are_checked():
    assert trackers_named(["wandb", "tensorboard", "wandb"]) == ("tensorboard", "wandb")
    with pytest.raises(UsageError, match="log_to mlflow is not one of tensorboard, wandb"):
        trackers_named(["mlflow"])


def test_a_steps_numbers_have_names():
    assert step_values(RECORD, 120.0) == {
        "learning_rate": 1e-3, "epoch": 1, "tokens": 900, "loss/step_1": 2.5, "loss/step_2": 3.5,
        "agreement/step_1": 0.61, "agreement/step_2": 0.4, "tokens_per_second": 120.0,
    }  # fmt: skip
    assert "tokens_per_second" not in step_values(RECORD, None)


def test_the_pace_is_that_of_the_last_steps(monkeypatch):
    clock = iter([0.0, *(10.0 + 2 * n for n in range(60))])
    monkeypatch.setattr(trackers.time, "monotonic", lambda: next(clock))
    pace = Pace()
    assert pace.tokens_per_second is None
    pace.add(100)  # the first step took ten seconds
    assert pace.tokens_per_second == 10.0
    for _ in range(59):
        pace.add(100)
    assert pace.tokens_per_second == 50.0
    assert talk(RECORD, pace, 2.789) == "loss 3.000, agrees 61% 40%, 50 tokens/s, accepts 2.79"
    assert talk(RECORD, pace, 0.0) == "loss 3.000, agrees 61% 40%, 50 tokens/s"


def test_tensorboard_files_hold_the_scalars_and_hide_what_a_killed_run_lost(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (first,) = open_trackers(("tensorboard",), tmp_path, step=0, settings={})
    for step in range(1, 6):
        first.log({"loss/step_1": 10.0 - step}, step)
    first.close()
    (resumed,) = open_trackers(("tensorboard",), tmp_path, step=3, settings={})
    resumed.log({"loss/step_1": 1.5, "acceptance_length": 2.0}, 4)
    resumed.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss/step_1")] == [
        (1, 9.0),
        (2, 8.0),
        (3, 7.0),
        (4, 1.5),
    ]
    assert [event.step for event in read.Scalars("acceptance_length")] == [4]


def test_wandb_goes_on_with_the_run_of_the_same_output(monkeypatch, tmp_path):
    begun, logged = [], []
    run = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("end"))
    fake = SimpleNamespace(init=lambda **options: begun.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for folder in ("head.training", "head.training", "other.training"):
        (tracker,) = open_trackers(("wandb",), tmp_path / folder, step=2, settings={"epochs": 8})
        tracker.log({"acceptance_length": 2.0}, 3)
        tracker.close()
    ids = [options["id"] for options in begun]
    assert ids[0] == ids[1] != ids[2]
    assert (begun[0]["name"], begun[0]["resume"], begun[0]["config"]) == ("head", "allow", {"epochs": 8})
    assert logged == [(3, {"acceptance_length": 2.0}), "end"] * 3
