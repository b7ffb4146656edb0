"""A run from answers to a head: it learns, it resumes to the bit, it refuses what changed."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from frspec_cli.answers import records as recorded
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.errors import FrspecError
from frspec_cli.heads.checkpoint import load_head
from frspec_cli.models.target import Target
from frspec_cli.progress import Callbacks
from frspec_cli.training.options import RunSettings, TrainOptions
from frspec_cli.training.run import RunInputs, TrainingRun, open_run
from frspec_cli.training.trainer import Trainer
from frspec_cli.training.validation import validation_rows

OPTIONS = TrainOptions(epochs=3, batch_tokens=32, steps=3, sampled_rows=16, learning_rate=3e-3)
SETTINGS = RunSettings(taps=(1, 2), validate_every=10, tree=TreeConfig(depth=3, beam=2, nodes=6))


@pytest.fixture(scope="module")
def answers_file(answers, tmp_path_factory):
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    with open(path, "w") as file:
        for answer in answers:
            prompt, response = answer.ids[: answer.prompt_length], answer.ids[answer.prompt_length :]
            record = {"prompt_token_ids": prompt.tolist(), "response_token_ids": response.tolist(), "finish": "length"}
            file.write(json.dumps(record) + "\n")
    return path


class Opened:
    """An opened run with what it said; `close` ends it, as the end of its process would."""

    def __init__(self, inputs: RunInputs) -> None:
        self.said: list[str] = []
        self._stack = ExitStack()
        callbacks = Callbacks(say=self.said.append, warn=self.said.append)
        self.run: TrainingRun = self._stack.enter_context(open_run(inputs, callbacks=callbacks))

    def __getattr__(self, name: str):
        return getattr(self.run, name)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def start(target, answers_file, tmp_path):
    opened: list[Opened] = []

    def make(
        name="head",
        options=OPTIONS,
        settings=SETTINGS,
        path=answers_file,
        initial=None,
        checkpoint_seconds=60.0,
        restart=False,
        online=False,
        recompute=False,
    ) -> Opened:
        loaded = Target(name="tiny", folder=tmp_path, model=target, processor=None)
        inputs = RunInputs(
            loaded,
            path,
            tmp_path / name,
            options,
            settings,
            initial=initial,
            features_mode="online" if online else "auto",
            features=None if online else tmp_path / "features",
            command="frspec train-draft answers.jsonl",
            checkpoint_seconds=checkpoint_seconds,
            restart=restart,
            recompute=recompute,
        )
        opened.append(Opened(inputs))
        return opened[-1]

    yield make
    for run in opened:
        run.close()


def kill_never(record, total):
    pass


class Killed(Exception):
    pass


def kill_at(step):
    def on_step(record, total):
        if record.step == step:
            raise Killed

    return on_step


def state(session) -> dict[str, torch.Tensor]:
    return load_file(session.saved.folder / "checkpoint.safetensors")


@pytest.mark.parametrize("online", [False, True])
def test_a_killed_and_resumed_run_equals_an_undisturbed_one_to_the_last_bit(start, tmp_path, online):
    undisturbed = start("undisturbed", checkpoint_seconds=-1.0, online=online)
    undisturbed.train(lambda record, total: None)
    for step in (4, 17):
        killed = start("killed", checkpoint_seconds=-1.0, online=online)
        with pytest.raises(Killed):
            killed.train(kill_at(step))  # the step was logged, but no checkpoint holds it
        killed.close()
    resumed = start("killed", online=online)
    assert resumed.trainer.step == 16
    resumed.train(lambda record, total: None)

    assert state(resumed).keys() == state(undisturbed).keys()
    assert all(torch.equal(tensor, state(resumed)[name]) for name, tensor in state(undisturbed).items())
    assert resumed.best == undisturbed.best
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (resumed.inputs.out / name).read_bytes() == (undisturbed.inputs.out / name).read_bytes()
    assert (resumed.saved.folder / "metrics.jsonl").read_text() == (
        undisturbed.saved.folder / "metrics.jsonl"
    ).read_text()
    assert [path.suffix for path in tmp_path.rglob("features-*")] == [".safetensors"] * (0 if online else 3)
    # 3 passes over 39 answers; fewer steps than answers, more than one a pass
    assert 3 < undisturbed.trainer.total_steps < 3 * 39


def test_ctrl_c_ends_the_step_and_leaves_a_checkpoint_of_it(start):
    session, before = start(), signal.getsignal(signal.SIGINT)
    take_step = session.trainer.optimizer.step

    def interrupted(*rates):
        if session.trainer.step == 4:
            os.kill(os.getpid(), signal.SIGINT)  # in the middle of the fifth step
        take_step(*rates)

    session.trainer.optimizer.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        session.train(lambda record, total: None)
    assert session.said[-2:] == [
        "stopping after this step; Ctrl-C again stops at once",
        "stopped at step 5",
    ]
    assert signal.getsignal(signal.SIGINT) is before
    session.close()
    resumed = start()
    assert resumed.trainer.step == 5
    assert all(
        torch.equal(p, dict(resumed.trainer.head.named_parameters())[n])
        for n, p in session.trainer.head.named_parameters()
    )


def test_two_runs_on_one_head_do_not_meet(start):
    first = start()
    with pytest.raises(FrspecError, match="another process is writing to"):
        start()
    first.close()
    start()


def test_what_a_killed_run_was_about_to_write_is_cleared_away(start, tmp_path):
    finished = start("head")
    finished.train(kill_never)
    finished.close()
    (tmp_path / "head").rename(tmp_path / ".head.1-0123abcd.old")  # killed between the two renames
    (tmp_path / ".head.1-0123abcd.tmp").mkdir()
    (tmp_path / "head.training" / ".checkpoint.safetensors.1-0123abcd.tmp").write_text("half")
    start("head")
    assert (tmp_path / "head" / "model.safetensors").is_file()
    assert not list(tmp_path.rglob(".*"))


def test_training_makes_the_head_agree_with_the_target(start):
    session = start(options=replace(OPTIONS, epochs=20))
    agreement = []
    session.train(lambda record, total: agreement.append(record.agreement[0]))
    assert np.mean(agreement[-20:]) > np.mean(agreement[:20]) + 0.15
    assert session.best > 1.0
    loaded = load_head(
        session.inputs.out,
        target_config=session.inputs.target.config,
        embedding_weight=session.inputs.target.embedding,
        dtype=torch.float32,
    )
    assert json.loads((session.inputs.out / "config.json").read_text())["target"] == "tiny"
    assert loaded.taps == (1, 2)
    assert "39 answers" in (session.inputs.out / "README.md").read_text().replace("**", "")


def test_tokens_off_by_one_teach_less(start, monkeypatch):
    """The alignment: were the draft fed the token that the feature already knows, it would agree less."""
    right, wrong = [], []
    options = replace(OPTIONS, epochs=12)
    start("right", options).train(lambda record, total: right.append(record.agreement[0]))
    make_batch = Trainer._take_step.__globals__["make_batch"]

    def unshifted(answers, features, *, device):
        batch = make_batch(answers, features, device=device)
        batch.tokens.copy_(torch.cat([torch.from_numpy(answer.ids[:-2]) for answer in answers]))
        return batch

    monkeypatch.setattr("frspec_cli.training.trainer.make_batch", unshifted)
    start("wrong", options).train(lambda record, total: wrong.append(record.agreement[0]))
    assert np.mean(right[-15:]) > np.mean(wrong[-15:]) + 0.1


@pytest.mark.parametrize(
    ("change", "named"),
    [({"learning_rate": 1e-4}, "learning_rate"), ({"epochs": 4}, "epochs"), ({"sampled_rows": None}, "sampled_rows")],
)
def test_resuming_with_another_option_is_refused_by_its_name(start, change, named):
    start().close()
    with pytest.raises(FrspecError, match=f"{named} was"):
        start(options=replace(OPTIONS, **change))


def test_resuming_with_features_from_elsewhere_is_refused(start):
    start(online=True).close()
    with pytest.raises(FrspecError, match="features_mode was online, now it is disk"):
        start()


def test_restart_drops_the_checkpoint_and_keeps_the_features(start, tmp_path):
    first = start(checkpoint_seconds=-1.0)
    with pytest.raises(Killed):
        first.train(kill_at(4))
    first.close()
    own = tmp_path / "head.training" / "features"
    own.mkdir()
    (own / "shard").write_text("")
    again = start(options=replace(OPTIONS, epochs=4), restart=True)
    assert again.trainer.step == 0
    assert (again.saved.metrics.read_text(), (own / "shard").is_file()) == ("", True)


def test_validation_proposes_from_the_rows_that_the_card_names(start, monkeypatch):
    monkeypatch.setattr("frspec_cli.training.validation.VALIDATION_ROWS", 9)
    session = start()
    rows = validation_rows(session.trainer.head, session.inputs.target.lm_head, session.answers.counts)
    assert rows.size == 9


def test_resuming_on_other_answers_is_refused(start, answers_file, tmp_path):
    start().close()
    lines = answers_file.read_text().splitlines()
    changed = json.loads(lines[3])
    changed["response_token_ids"][0] = 2 if changed["response_token_ids"][0] != 2 else 3
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join([*lines[:3], json.dumps(changed), *lines[4:]]) + "\n")
    with pytest.raises(FrspecError, match="other inputs: answers was"):
        start(path=other)


def test_a_warm_start_takes_the_weights_of_a_head(start):
    first = start("first")
    first.train(lambda record, total: None)
    second = start("second", initial=first.inputs.out)
    saved = load_file(first.inputs.out / "model.safetensors")
    assert all(torch.equal(p.bfloat16(), saved[n]) for n, p in second.trainer.head.named_parameters())


def test_held_out_answers_are_never_trained_on(answers):
    train, held_out = recorded.split(answers)
    assert len(train) + len(held_out) == len(answers)
    assert not {id(a) for a in train} & {id(a) for a in held_out}


@pytest.mark.parametrize(("count", "held_out"), [(1, []), (2, [1]), (4, [2]), (16, [8]), (17, [16]), (64, [16, 48])])
def test_few_answers_too_leave_one_to_validate_on(answers, count, held_out):
    some = (answers * 2)[:count]
    train, kept = recorded.split(some)
    assert [id(a) for a in kept] == [id(some[i]) for i in held_out]
    assert [id(a) for a in train] == [id(a) for i, a in enumerate(some) if i not in held_out]


SWITCHES = {"ema": 0.9, "negatives": "frequency", "objective": "lk-lambda", "final_rate": 0.0, "steps": 7}


def test_every_switch_resumes_to_the_last_bit_and_is_on_the_card(start):
    options = replace(OPTIONS, **SWITCHES)
    undisturbed = start("undisturbed", options)
    undisturbed.train(kill_never)
    killed = start("killed", options, checkpoint_seconds=-1.0)
    with pytest.raises(Killed):
        killed.train(kill_at(12))
    killed.close()
    resumed = start("killed", options)
    resumed.train(kill_never)
    assert state(resumed).keys() == state(undisturbed).keys()
    assert all(torch.equal(tensor, state(resumed)[name]) for name, tensor in state(undisturbed).items())
    card = (resumed.inputs.out / "README.md").read_text()
    assert "muon at 0.003 falling to 0%, 7 unrolled draft steps" in card
    assert "16 sampled rows a step drawn by frequency^0.75, objective lk-lambda" in card
    assert "moving average of the weights at 0.9 |" in card


def test_the_average_is_what_is_validated_and_saved(start):
    run = start(options=replace(OPTIONS, ema=0.9))
    seen, decays = [], []

    def record(step, total):
        seen.append({name: weight.detach().clone() for name, weight in run.trainer.weights.items()})

    expected = {name: weight.detach().double().clone() for name, weight in run.trainer.weights.items()}
    run.train(record)
    for step, weights in enumerate(seen, 1):
        decays.append(min(0.9, (1 + step) / (10 + step)))
        expected = {name: decays[-1] * a + (1 - decays[-1]) * weights[name].double() for name, a in expected.items()}
    assert decays[0] == 2 / 11
    assert max(decays) < 0.9 or decays[-1] == 0.9
    held = run.trainer.evaluated_head()
    for name, weight in held.named_parameters():
        torch.testing.assert_close(weight.double(), expected[name], atol=1e-5, rtol=1e-5)
        assert not torch.equal(weight, run.trainer.weights[name])
    assert held.embedding_weight is run.trainer.head.embedding_weight
    averages = {name for name in state(run) if name.startswith("average.")}
    assert averages == {f"average.{name}" for name in run.trainer.weights}


def test_recomputed_steps_train_to_the_same_bits(start):
    plain = start("plain")
    plain.train(kill_never)
    again = start("again", recompute=True)
    again.train(kill_never)
    assert all(torch.equal(tensor, state(again)[name]) for name, tensor in state(plain).items())


@pytest.mark.parametrize(("final", "last"), [(0.01, 0.01), (0.0, 0.0), (1.0, 1.0)])
def test_the_rate_rises_then_falls_to_its_final_share(start, final, last):
    run = start(options=replace(OPTIONS, warmup=0.5, final_rate=final))
    total = run.trainer.total_steps
    shares = [run.trainer.share_of_peak(step) for step in range(total + 1)]
    warm = round(0.5 * total)
    assert shares[0] == pytest.approx(1 / warm)
    assert shares[warm - 1] == shares[warm] == 1.0
    assert shares[total] == pytest.approx(last)
    assert sorted(shares[warm:], reverse=True) == shares[warm:]
