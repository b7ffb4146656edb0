"""A profile says where a cycle's time goes, and leaves the methods that it times as they are."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from frspec_cli.bench import profile as module
from frspec_cli.bench.measure import Arm
from frspec_cli.bench.profile import LAYER, LM_HEAD, PARTS, TARGET, TREE, Probe, profile, texts
from frspec_cli.bench.untrained import with_untrained_head
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.decoding.tree import TreeConfig
from frspec_cli.statistics import RESAMPLES, median, median_ratio
from tests.tiny import tiny_target

PROMPTS = [[5, 17, 20], [9, 9, 3, 1, 30], [2]]
SHAPE = TreeConfig(3, 2, 8)


@pytest.fixture(scope="module")
def parts() -> Pipeline:
    return with_untrained_head(Pipeline(target=tiny_target()), k=64)


def arms(parts: Pipeline) -> list[Arm]:
    made = [(method, parts.engine(method, shape=SHAPE)) for method in ("ar", "eagle", "frspec", "lookup")]
    return [Arm(method, engine, engine.drafter.k) for method, engine in made]


def test_every_method_is_profiled_over_all_prompts(parts) -> None:
    ticks = []
    found = profile(lambda: arms(parts), PROMPTS, max_new_tokens=12, seed=0, done=lambda: ticks.append(1))
    assert len(ticks) == texts(4, 3) == 24
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
        ("_forward", TARGET, 1),
        ("_log_probs", LM_HEAD, 3),
        ("_run", LAYER, 3),
        ("propose", TREE, 1),
    ]:
        engine = parts.engine("frspec", shape=SHAPE)
        owner = engine if method == "_forward" else engine.drafter
        setattr(owner, method, ticking(getattr(owner, method)))
        probe = Probe(engine)
        for cycle in engine.generate(PROMPTS[0], max_new_tokens=4, ignore_eos=True):
            taken = probe.take()
            if not cycle.prefill:
                assert taken == dict.fromkeys(PARTS, 0.0) | {part: calls}, method


def test_the_timed_pass_runs_no_probe(parts, monkeypatch) -> None:
    """What is timed is made before any probe is, and no engine is shared between the passes."""
    made: list[Arm] = []
    probed = []
    honest = Probe.__init__

    def noting(self, engine) -> None:
        probed.append(engine)
        honest(self, engine)

    monkeypatch.setattr(Probe, "__init__", noting)

    def fresh() -> list[Arm]:
        made.extend(arms(parts))
        return made[-4:]

    profile(fresh, PROMPTS[:1], max_new_tokens=4, seed=0)
    timed = [arm.decoder for arm in made[:4]]
    assert len(probed) == 4
    assert not any(engine is other for engine in probed for other in timed)
    assert all("_forward" not in vars(engine) for engine in timed)


def test_a_probe_changes_no_token(parts) -> None:
    plain = parts.engine("eagle", shape=SHAPE).complete(PROMPTS[1], max_new_tokens=20)
    engine = parts.engine("eagle", shape=SHAPE)
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
    code, shown, err = cli("bench", *arguments, "--profile", "--draft", "random", "--k", 32, "--k", 64)
    assert code == 0, err
    assert "draft LM head" in shown
    assert "second, instrumented pass" in " ".join(shown.split())
    assert "eagle/frspec@64: cycle" in err
    result = json.loads(out.read_text())
    assert list(result["profile"]["methods"]) == ["ar", "eagle", "frspec@32", "frspec@64"]
    assert result["options"]["draft"] == "random"
    assert result["environment"]["threads"]
    code, shown, err = cli("bench", *arguments, "--profile", "--methods", "ar,lookup", "--json", "-q")
    assert (code, err) == (0, "")
    assert json.loads(shown)["profile"]["ratios"] == {}


@pytest.mark.parametrize("more", [["--draft", "random"], ["--profile", "--methods", "ar,transformers"]])
def test_what_means_nothing_is_usage(cli, suite, tiny_folder, tmp_path, more) -> None:
    code, _, err = cli("bench", "--suite", suite, "--out", tmp_path / "r.json", "--model", tiny_folder, *more)
    assert code == 2, err
