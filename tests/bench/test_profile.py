"""A profile says where a cycle's time goes, and leaves the methods that it times as they are."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from frspec_cli.answers.batched_decode import TokenizedPrompt
from frspec_cli.bench import profile as module
from frspec_cli.bench.options import ProfileOptions
from frspec_cli.bench.profile import LAYER, LM_HEAD, PARTS, TARGET, TREE, Probe, run_profile
from frspec_cli.bench.untrained import with_untrained_head
from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.progress import Callbacks
from frspec_cli.statistics import RESAMPLES, median, median_ratio
from tests.tiny import tiny_target

PROMPTS = [[5, 17, 20], [9, 9, 3, 1, 30], [2]]
SHAPE = TreeConfig(3, 2, 8)
OPTIONS = ProfileOptions(
    methods=("ar", "eagle", "frspec", "lookup"), depth=3, beam=2, nodes=8, max_new_tokens=12, seed=0
)


@pytest.fixture(scope="module")
def parts() -> Pipeline:
    return with_untrained_head(Pipeline(target=tiny_target()), k=64)


def profile(parts: Pipeline, prompts: list[list[int]], out: Path, *, options=OPTIONS, **more):
    named = [TokenizedPrompt(str(number), "", tuple(ids)) for number, ids in enumerate(prompts, start=1)]
    return run_profile(parts, options, named, out=out / "result.json", **more)


def test_every_method_is_profiled_over_all_prompts(parts, tmp_path) -> None:
    totals: list[int] = []
    finished: list[int] = []
    callbacks = Callbacks(begin=totals.append, finished=finished.append)
    found = profile(parts, PROMPTS, tmp_path, callbacks=callbacks)["profile"]
    assert totals == [sum(finished)] == [2 * 3]  # three prompts in both passes
    assert list(found["methods"]) == ["ar", "eagle", "frspec", "lookup"]
    assert found["methods"]["ar"]["cycles"] == 3 * 11
    assert (found["methods"]["eagle"]["k"], found["methods"]["frspec"]["k"]) == (320, 64)
    for figures in found["methods"].values():
        assert figures["cycle_ms"]["low"] <= figures["cycle_ms"]["value"] <= figures["cycle_ms"]["high"]
        assert list(figures["parts_ms"]) == list(figures["shares"]) == list(PARTS)
        assert sum(figures["shares"].values()) == pytest.approx(1)
        assert all(share >= 0 for share in figures["shares"].values())
    assert found["methods"]["ar"]["shares"][LM_HEAD] == 0
    assert found["methods"]["frspec"]["shares"][LM_HEAD] > 0
    assert list(found["ratios"]) == ["eagle/frspec"]
    assert found["ratios"]["eagle/frspec"]["draft"]["value"] > 0


def test_time_is_booked_where_it_is_spent(parts, monkeypatch) -> None:
    """On a clock that stands still but for one part, each in turn: what that part took is booked there and nowhere else."""
    clock = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def ticking(honest):
        def run(*arguments, **named):
            clock[0] += 1.0
            return honest(*arguments, **named)

        return run

    for method, part, calls in [
        ("forward", TARGET, 1),
        ("_log_probs", LM_HEAD, 3),
        ("_run", LAYER, 3),
        ("propose", TREE, 1),
    ]:
        engine = parts.engine("frspec", tree=SHAPE)
        owner = engine if method == "forward" else engine.drafter
        setattr(owner, method, ticking(getattr(owner, method)))
        probe = Probe(engine)
        for cycle in engine.generate(PROMPTS[0], max_new_tokens=4, ignore_eos=True):
            taken = probe.take()
            if not cycle.prefill:
                assert taken == dict.fromkeys(PARTS, 0.0) | {part: calls}, method


def test_the_timed_pass_runs_no_probe(parts, monkeypatch, tmp_path) -> None:
    """What is timed is made before any probe is, and no engine is shared between the passes."""
    made: list[Engine] = []
    timed: list[Engine] = []
    probed: list[Engine] = []
    honest_engines, honest_text, honest_probe = module._engines, module.time_text, Probe.__init__

    def engines(*arguments):
        made.extend((new := honest_engines(*arguments)).values())
        return new

    def time_text(engine, *arguments):
        assert not probed
        timed.append(engine)
        return honest_text(engine, *arguments)

    def noting(self, engine) -> None:
        probed.append(engine)
        honest_probe(self, engine)

    monkeypatch.setattr(module, "_engines", engines)
    monkeypatch.setattr(module, "time_text", time_text)
    monkeypatch.setattr(Probe, "__init__", noting)
    profile(parts, PROMPTS[:1], tmp_path)
    assert list(map(id, timed)) == list(map(id, made[:4]))
    assert len(probed) == 4
    assert not any(engine is other for engine in probed for other in timed)
    assert all("forward" not in vars(engine) for engine in timed)


def test_a_part_that_was_renamed_is_an_error(parts, monkeypatch) -> None:
    """A method that no longer exists must not be shown as one that takes no time."""
    engine = parts.engine("frspec", tree=SHAPE)
    monkeypatch.delattr(EagleDrafter, "_log_probs")
    with pytest.raises(AttributeError, match="_log_probs"):
        Probe(engine)


class Killed(Exception):
    """Stands for a process that dies between two prompts."""


@pytest.mark.parametrize("after", [1, 3, 4, 5])
def test_a_killed_profile_resumes(parts, tmp_path, after: int) -> None:
    """It dies in the first pass or in the second; what was timed is not timed again, and all prompts are there."""
    landed = [0]

    def die(count: int) -> None:
        landed[0] += count
        if landed[0] == after:
            raise Killed

    with pytest.raises(Killed):
        profile(parts, PROMPTS, tmp_path, callbacks=Callbacks(finished=die))
    assert not (tmp_path / "result.json").exists()
    before = {path.name: path.read_bytes() for path in (tmp_path / "result.json.ledger").glob("*-*.json")}
    assert len(before) == after
    measured: list[int] = []
    found = profile(parts, PROMPTS, tmp_path, callbacks=Callbacks(finished=measured.append))
    assert sum(measured) == 6
    assert found["profile"]["methods"]["ar"]["cycles"] == 3 * 11
    timed = json.loads(before["cycles-000000.json"])["value"]
    first = found["profile"]["methods"]["ar"]["cycle_ms"]
    assert first["low"] <= 1000 * max(timed["ar"]["cycle"])
    assert not (tmp_path / "result.json.ledger").exists()


def test_a_prompt_that_fails_is_left_out_and_named(parts, tmp_path) -> None:
    warnings: list[str] = []
    found = profile(parts, [PROMPTS[0], [5] * 510, PROMPTS[1]], tmp_path, callbacks=Callbacks(warn=warnings.append))
    assert found["profile"]["failed"] == 1
    assert found["failures"] == [{"id": "2", "reason": found["failures"][0]["reason"]}]
    assert "do not fit into the model's context of 512" in found["failures"][0]["reason"]
    assert "prompt 2 failed" in warnings[0]
    assert found["profile"]["methods"]["ar"]["cycles"] == 2 * 11


def test_a_probe_changes_no_token(parts) -> None:
    plain = parts.engine("eagle", tree=SHAPE).complete(PROMPTS[1], max_new_tokens=20)
    engine = parts.engine("eagle", tree=SHAPE)
    Probe(engine)
    assert engine.complete(PROMPTS[1], max_new_tokens=20).token_ids == plain.token_ids


def test_an_untrained_head_is_the_same_for_one_seed_and_leaves_the_random_state() -> None:
    bare = Pipeline(target=tiny_target())
    before = torch.get_rng_state()
    heads = [with_untrained_head(bare, k=8, seed=seed).head for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (head.fc.weight for head in heads)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_medians_and_their_ratio() -> None:
    rounds, base = [[1.0, 2.0, 3.0], [2.0, 2.0]], [[4.0], [4.0, 4.0]]
    assert median(rounds, seed=0) == {"value": 2.0, "low": 2.0, "high": 2.0}
    assert median_ratio(base, rounds, seed=0)["value"] == 2.0


def test_the_interval_is_that_of_medians_over_drawn_rounds() -> None:
    """Against the same draws, one by one."""
    generator = np.random.default_rng(6)
    rounds = [generator.lognormal(size=size).tolist() for size in (3, 1, 4, 2, 6)]
    draws = np.random.default_rng(9).integers(0, 5, size=(RESAMPLES, 5))
    medians = [np.median([value for index in draw for value in rounds[index]]) for draw in draws]
    found = median(rounds, seed=9)
    assert [found["low"], found["high"]] == pytest.approx(list(np.quantile(medians, [0.025, 0.975])))


def test_a_ratio_of_equals_has_an_interval_around_one() -> None:
    """200 runs of 12 rounds, A against A: the 95 % interval misses 1.0 in at most 40 (odds of more: below 1e-6 at 8 %)."""
    generator = np.random.default_rng(4)
    missed = 0
    for run in range(200):
        speed = generator.lognormal(0, 0.2, size=(12, 1))  # the machine's, which both arms share
        a, b = (speed * generator.lognormal(0, 0.1, size=(12, 5)) for _ in range(2))
        found = median_ratio(a.tolist(), b.tolist(), seed=run)
        missed += not found["low"] <= 1.0 <= found["high"]
    assert missed <= 40


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    file = tmp_path / "suite.jsonl"
    file.write_text('{"prompt": "the fox"}\n{"prompt": "a hen"}\n')
    return file


def test_the_command_shows_and_writes_a_profile(cli, suite, tiny_folder, tmp_path) -> None:
    out = tmp_path / "result.json"
    arguments = [
        "--suite",
        suite,
        "--out",
        out,
        "--model",
        tiny_folder,
        "--dtype",
        "float32",
        "--device",
        "cpu",
        "-n",
        6,
    ]
    code, shown, err = cli("profile", *arguments, "--draft", "random", "--k", 32, "--k", 64)
    assert code == 0, err
    assert "draft LM head" in shown
    assert "second, instrumented pass" in " ".join(shown.split())
    assert "eagle/frspec@64: cycle" in err
    result = json.loads(out.read_text())
    assert list(result["profile"]["methods"]) == ["ar", "eagle", "frspec@32", "frspec@64"]
    assert result["options"]["draft"] == "random"
    assert result["environment"]["threads"]
    code, shown, err = cli("profile", *arguments, "--methods", "ar,lookup", "--json", "-q")
    assert (code, err) == (0, "")
    assert json.loads(shown)["profile"]["ratios"] == {}


@pytest.mark.parametrize(
    ("command", "more", "message"),
    [
        ("bench", ["--draft", "random"], "--draft random is an untrained head"),
        ("bench", ["--profile"], "See frspec profile --help."),
        ("profile", ["--methods", "ar,transformers"], "transformers has none: leave it out of --methods."),
        ("profile", ["--methods", "ar,lookup", "--draft", "random"], "--draft has no effect on ar and lookup"),
    ],
)
def test_options_without_effect_are_usage(cli, suite, tiny_folder, tmp_path, command, more, message) -> None:
    code, _, err = cli(command, "--suite", suite, "--out", tmp_path / "r.json", "--model", tiny_folder, *more)
    assert code == 2, err
    assert message in " ".join(err.split())
    assert not (tmp_path / "r.json.ledger").exists()
