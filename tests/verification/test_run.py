"""`verify` finds what it should: nothing on an honest engine, and planted mistakes of every kind."""

from __future__ import annotations

import dataclasses
import itertools
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from frspec_cli.answers.batched_decode import TokenizedPrompt
from frspec_cli.decoding import engine
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.decoding.walk import Walk, walk
from frspec_cli.errors import FrspecError
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.progress import Callbacks
from frspec_cli.verification import identity
from frspec_cli.verification.options import VerifyOptions
from frspec_cli.verification.report import Difference, Outcome, report
from frspec_cli.verification.rules import Verifier, settle_by_rounding
from frspec_cli.verification.run import Verification
from tests.tiny import tiny_config, tiny_target

PROMPTS = [[5, 17, 20], [9, 9, 3, 1, 30], [2]]
OPTIONS = VerifyOptions(method="eagle", depth=4, beam=3, nodes=12, max_new_tokens=30, stock=0, stepwise=2, sampled=2)


def load(dtype: str) -> Pipeline:
    """A tiny target and a random head in the dtype that is asked for."""
    target = tiny_target(dtype=getattr(torch, dtype), config=tiny_config(vocab_size=40))
    torch.manual_seed(2)
    head = EagleHead(head_config_for(target.config, taps=(1, 2)), embedding_weight=target.embedding)
    return Pipeline(target=target, head=head.to(target.dtype).eval().requires_grad_(False))


def verify(
    dtype: str, options: VerifyOptions = OPTIONS, *, load: Callable[[str], Pipeline] = load, **more: Any
) -> dict[str, Any]:
    """The result over the three prompts, `a` of one task and `b`, `c` of another."""
    prompts = [
        TokenizedPrompt(name, "", tuple(ids), task)
        for name, ids, task in zip("abc", PROMPTS, ("x", "y", "y"), strict=True)
    ]
    verifier = Verifier(load, dataclasses.replace(options, dtype=dtype))
    return Verification(verifier, prompts).run(**({"out": None} | more))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_an_honest_engine_passes(dtype: str) -> None:
    result = verify(dtype)
    assert result["passed"]
    assert result["prompts"] == 3
    if dtype != "bfloat16":
        assert result["identical"] == 3
        assert result["sampling"] == {"prompts": 2, "identical": 2, "share": 1.0, "differences": []}
    assert sum(check["accepted"] for check in result["checks"]) > 0


def test_reduced_precision_brings_the_float32_rule_along() -> None:
    names = [check["name"] for check in verify("bfloat16")["checks"]]
    assert names == ["greedy, bfloat16", "greedy, re-scored", "greedy, step by step", "seeded sampling"]


def test_float32_can_be_left_out_where_it_does_not_fit() -> None:
    loaded: list[str] = []

    def recording(dtype: str) -> Pipeline:
        loaded.append(dtype)
        return load(dtype)

    result = verify("bfloat16", dataclasses.replace(OPTIONS, float32="skip", dtype="bfloat16"), load=recording)
    assert [check["name"] for check in result["checks"]] == ["greedy, bfloat16"]
    assert (result["passed"], loaded) == (True, ["bfloat16"])


def _accept_one_too_many(tree, chosen, depth):
    step = walk(tree, chosen, depth)
    child = int(torch.where(tree.parents == step.path[step.accepted], torch.arange(tree.nodes), 0).max())
    if child == 0 or int(step.accepted) == depth:
        return step
    path, emitted = step.path.clone(), step.emitted.clone()
    at = int(step.accepted) + 1
    path[at], emitted[at - 1], emitted[at] = child, tree.tokens[child], chosen[child]
    return Walk(path=path, emitted=emitted, accepted=step.accepted + 1)


def _bonus_from_the_parent(tree, chosen, depth):
    step = walk(tree, chosen, depth)
    emitted = step.emitted.clone()
    if int(step.accepted):
        emitted[step.accepted] = emitted[step.accepted - 1]
    return Walk(path=step.path, emitted=emitted, accepted=step.accepted)


@pytest.mark.parametrize("mutant", [_accept_one_too_many, _bonus_from_the_parent])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_wrong_walk_is_found(mutant, dtype: str, monkeypatch) -> None:
    monkeypatch.setattr(engine, "walk", mutant)
    result = verify(dtype)
    assert not result["passed"]
    assert any(not each["explained"] for each in result["differences"])


def test_the_rule_of_reduced_precision_comes_from_what_is_measured() -> None:
    """Twice the largest rounding of any prompt: there each of two logits may move by as much."""

    def outcome(rounding: float, *margins: float | None) -> Outcome:
        found = tuple(Difference(3, margin, 1.0, explained=None) for margin in margins)
        return Outcome("greedy, bfloat16", "1", "", 5, 20, cycles=9, accepted=9, differences=found, rounding=rounding)

    settled = settle_by_rounding([outcome(0.125, 0.5), outcome(0.25, 0.501), outcome(0.0), outcome(0.0, None)])
    assert [[each.explained for each in one.differences] for one in settled] == [[True], [False], [], [False]]
    assert not any(one.undecided for one in settled)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 0.0), (0.25, 0.25)])
def test_rounding_is_the_difference_between_one_row_and_many(shift: float, expected: float, monkeypatch) -> None:
    target = tiny_target()
    plain = Engine(target)
    cycles = list(plain.generate([5, 17, 20], max_new_tokens=30, ignore_eos=True))
    ids = [token for cycle in cycles for token in cycle.tokens]
    forward, seen = Engine.forward, []

    def shifted(self, workspace, tokens, *others, **keywords):
        logits, states = forward(self, workspace, tokens, *others, **keywords)
        seen.append(len(tokens))
        return logits + shift * (others[0][:, None] == 12), states  # one position only

    monkeypatch.setattr(Engine, "forward", shifted)
    top = [cycle.scores[0].topk(2) for cycle in cycles]
    rounding = identity.rounding(plain, [5, 17, 20], ids, top, nodes=8, depth=3)
    assert rounding == pytest.approx(expected, abs=1e-9)
    assert seen == [3, *[8] * 8]  # 29 tokens, four a tree


def test_rounding_is_measured_where_a_path_s_keys_lie_apart(monkeypatch) -> None:
    """In bfloat16 rows side by side gave the very logits of one row, and the trees of decoding did not."""
    target = tiny_target()
    plain = Engine(target)
    cycles = list(plain.generate([5, 17, 20], max_new_tokens=30, ignore_eos=True))
    ids = [token for cycle in cycles for token in cycle.tokens]
    top = [cycle.scores[0].topk(2) for cycle in cycles]
    forward, paths = Engine.forward, []

    def recorded(self, workspace, tokens, positions, slots, among, **keywords):
        if among is not None:
            longest = among[int(positions.argmax())]
            paths.append(slots[longest].tolist())
        return forward(self, workspace, tokens, positions, slots, among, **keywords)

    monkeypatch.setattr(Engine, "forward", recorded)
    identity.rounding(plain, [5, 17, 20], ids, top, nodes=16, depth=3)
    assert all(path[0] == 3 + 4 * number for number, path in enumerate(paths))  # each tree stands behind the kept rows
    assert sum(later - earlier > 1 for path in paths for earlier, later in itertools.pairwise(path)) > 2 * len(paths)


def test_texts_are_rescored_in_parts(monkeypatch) -> None:
    target = tiny_target()
    ids = Engine(target).complete([5, 17, 20] * 4, max_new_tokens=30, ignore_eos=True).token_ids
    whole = identity.score(target, [5, 17, 20] * 4, ids)
    monkeypatch.setattr(identity, "PASS_ROWS", 5)
    parts = identity.score(target, [5, 17, 20] * 4, ids)
    assert whole.best == parts.best == ids
    assert parts.margin == pytest.approx(whole.margin, abs=1e-9)
    assert len(parts.unit) == 30


def test_noise_by_node_instead_of_position_is_found(monkeypatch) -> None:
    """The law would stay right, but the same seed would give other ids than plain decoding."""
    honest = engine.scores

    def by_node(logits, noise, levels):
        rows = levels if noise is None or len(levels) == 1 else torch.arange(len(levels)).flip(0) % len(noise)
        return honest(logits, noise, rows)

    monkeypatch.setattr(engine, "scores", by_node)
    result = verify("float64")
    assert not result["passed"]
    assert result["sampling"]["identical"] < 2


@pytest.fixture
def lossy(monkeypatch):
    """`lossy("float32")`: a walk that accepts too much in these dtypes, and a `load` that says which dtype is in use."""
    current: list[str] = []

    def spoil(*dtypes: str) -> Callable[[str], Pipeline]:
        def spoiled(tree, chosen, depth):
            return (_accept_one_too_many if current[-1] in dtypes else walk)(tree, chosen, depth)

        def recording(dtype: str) -> Pipeline:
            current.append(dtype)
            return load(dtype)

        monkeypatch.setattr(engine, "walk", spoiled)
        monkeypatch.setattr(identity, "NEAR_TIE", float("inf"))
        return recording

    return spoil


@pytest.mark.parametrize(("spoiled", "passed"), [(("float32",), True), (("float32", "float64"), False)])
def test_a_near_tie_is_explained_only_if_float64_agrees(lossy, spoiled, passed: bool) -> None:
    """Every float32 difference is taken for a near tie here, so float64 alone decides."""
    result = verify("float32", load=lossy(*spoiled))
    differences = [*result["differences"], *result["sampling"]["differences"]]
    assert result["differences"]
    assert {each["explained"] for each in differences} == {passed}
    assert result["passed"] == passed


def test_one_dtype_is_in_memory_at_a_time(lossy) -> None:
    """bfloat16, float32 and (for near ties) float64, each loaded once, and only after the one before was freed."""
    targets: dict[str, weakref.ref] = {}
    honest = lossy("float32")

    def alone(dtype: str) -> Pipeline:
        assert dtype not in targets
        assert [name for name, target in targets.items() if target() is not None] == []
        pipeline = honest(dtype)
        targets[dtype] = weakref.ref(pipeline.target.model)
        return pipeline

    assert verify("bfloat16", load=alone)["passed"]
    assert list(targets) == ["bfloat16", "float32", "float64"]
    targets.clear()
    assert verify("float64", load=alone)["passed"]
    assert list(targets) == ["float64"]


class Killed(Exception):
    """Stands for a process that dies between two prompts."""


def die_after(count: int) -> Callbacks:
    left = [count]

    def finished(outcomes: int) -> None:
        left[0] -= outcomes
        if not left[0]:
            raise Killed

    return Callbacks(finished=finished)


@pytest.mark.parametrize("after", range(1, 8))
def test_a_killed_run_resumes_to_the_same_result(after: int, tmp_path: Path) -> None:
    """Seven outcomes in all; the run dies after each of them and what follows is run, once."""
    verify("float32", out=tmp_path / "whole.json")
    out, ran = tmp_path / "result.json", []
    with pytest.raises(Killed):
        verify("float32", out=out, callbacks=die_after(after))
    assert not out.exists()
    verify("float32", out=out, callbacks=Callbacks(finished=ran.append))
    assert len(ran) == 7 - after
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if "ledger" in path.name] == []


def test_a_run_killed_before_float64_resumes_to_the_same_result(lossy, tmp_path: Path) -> None:
    load, out = lossy("float32"), tmp_path / "result.json"
    verify("float32", load=load, out=tmp_path / "whole.json")
    with pytest.raises(Killed):
        verify("float32", load=load, out=out, callbacks=die_after(7))
    sentences: list[str] = []
    verify("float32", load=load, out=out, callbacks=Callbacks(say=sentences.append))
    assert any("near ties again in float64" in text for text in sentences)
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_other_options_do_not_resume(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    with pytest.raises(Killed):
        verify("float32", out=out, callbacks=die_after(1))
    other = dataclasses.replace(OPTIONS, stepwise=3)
    with pytest.raises(FrspecError, match="stepwise was 2, now it is 3"):
        verify("float32", other, out=out)
    assert verify("float32", other, out=out, restart=True)["passed"]
    assert [check["prompts"] for check in json.loads(out.read_text())["checks"]] == [3, 3, 2]


def test_a_check_of_no_prompts_is_not_run() -> None:
    options = dataclasses.replace(OPTIONS, rescored=0, sampled=0, stepwise=2)
    result = verify("bfloat16", options)
    assert [(check["name"], check["prompts"]) for check in result["checks"]] == [
        ("greedy, bfloat16", 3),
        ("greedy, step by step", 2),
    ]
    assert result["sampling"] is None
    with pytest.raises(FrspecError, match="no check"):
        verify("float32", dataclasses.replace(options, stepwise=0))


def test_a_report_counts_by_task_and_lists_every_difference() -> None:
    far, near = Difference(3, 0.5, 9.0, explained=False), Difference(7, 1e-5, 1.0, explained=True)
    outcomes = [
        Outcome("greedy, re-scored", "81", "x", 5, 20, cycles=10, accepted=9),
        Outcome("greedy, re-scored", "82", "x", 5, 20, cycles=10, accepted=9, differences=(near,)),
        Outcome("greedy, re-scored", "90", "y", 5, 20, cycles=10, accepted=9, differences=(far, near)),
    ]
    result = report({"greedy, re-scored": outcomes})
    assert (result["passed"], result["prompts"], result["identical"]) == (False, 3, 1)
    assert [(each["prompt"], each["position"], each["ulps"]) for each in result["differences"]] == [
        ("82", 7, 1.0), ("90", 3, 9.0), ("90", 7, 1.0),
    ]  # fmt: skip
    assert result["checks"][0]["tasks"]["x"] == {"prompts": 2, "identical": 1, "share": 0.5}
    assert result["checks"][0]["acceptance_length"] == 1.9
    assert report({"greedy, re-scored": outcomes[:2]})["passed"]
    assert [Outcome.read(dataclasses.asdict(outcome)) for outcome in outcomes] == outcomes
