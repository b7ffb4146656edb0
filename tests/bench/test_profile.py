"""A profile says where a cycle's time goes, and leaves the methods that it times as they are."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

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
from frspec_cli.errors import ArtifactError
from frspec_cli.progress import Callbacks
from tests.tiny import tiny_target

PROMPTS = [[5, 17, 20], [9, 9, 3, 1, 30], [2]]
SHAPE = TreeConfig(3, 2, 8)
OPTIONS = ProfileOptions(
    methods=("ar", "eagle", "frspec", "lookup"), depth=3, beam=2, nodes=8, max_new_tokens=12, seed=0
)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return with_untrained_head(Pipeline(target=tiny_target()), k=64)


def profile(pipeline: Pipeline, prompts: list[list[int]], folder: Path, **more):
    tokenized = [TokenizedPrompt(str(number), "", tuple(ids)) for number, ids in enumerate(prompts, start=1)]
    return run_profile(pipeline, OPTIONS, tokenized, out=folder / "result.json", **more)


def test_every_method_is_profiled_over_all_prompts(pipeline, tmp_path) -> None:
    totals: list[int] = []
    finished: list[int] = []
    callbacks = Callbacks(begin=totals.append, finished=finished.append)
    result = profile(pipeline, PROMPTS, tmp_path, callbacks=callbacks)["profile"]
    assert totals == [sum(finished)] == [2 * 3]  # three prompts in both passes
    assert list(result["methods"]) == ["ar", "eagle", "frspec", "lookup"]
    assert result["methods"]["ar"]["cycles"] == 3 * 11
    assert (result["methods"]["eagle"]["k"], result["methods"]["frspec"]["k"]) == (320, 64)
    for figures in result["methods"].values():
        assert figures["cycle_ms"]["low"] <= figures["cycle_ms"]["value"] <= figures["cycle_ms"]["high"]
        assert list(figures["parts_ms"]) == list(figures["shares"]) == list(PARTS)
        assert sum(figures["shares"].values()) == pytest.approx(1)
        assert all(share >= 0 for share in figures["shares"].values())
    assert result["methods"]["ar"]["shares"][LM_HEAD] == 0
    assert result["methods"]["frspec"]["shares"][LM_HEAD] > 0
    assert list(result["ratios"]) == ["eagle/frspec"]
    assert result["ratios"]["eagle/frspec"]["draft"]["value"] > 0


def test_time_is_booked_where_it_is_spent(pipeline, monkeypatch) -> None:
    """On a clock that stands still but for one part, each in turn: what that part took is booked there and nowhere else."""
    clock = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def ticking(original):
        def run(*arguments, **keywords):
            clock[0] += 1.0
            return original(*arguments, **keywords)

        return run

    for method, part, calls in [
        ("forward", TARGET, 1),
        ("_candidates", LM_HEAD, 3),
        ("_run", LAYER, 3),
        ("propose", TREE, 1),
    ]:
        engine = pipeline.engine("frspec", tree=SHAPE)
        owner = engine if method == "forward" else engine.drafter
        setattr(owner, method, ticking(getattr(owner, method)))
        probe = Probe(engine)
        for cycle in engine.generate(PROMPTS[0], max_new_tokens=4, ignore_eos=True):
            taken = probe.take()
            if not cycle.prefill:
                assert taken == dict.fromkeys(PARTS, 0.0) | {part: calls}, method


def test_the_timed_pass_runs_no_probe(pipeline, monkeypatch, tmp_path) -> None:
    """What is timed is made before any probe is, and no engine is shared between the passes."""
    created: list[Engine] = []
    timed: list[Engine] = []
    probed: list[Engine] = []
    original_engines, original_text, original_probe = module._engines, module.time_text, Probe.__init__

    def engines(*arguments):
        created.extend((new := original_engines(*arguments)).values())
        return new

    def time_text(engine, *arguments):
        assert not probed
        timed.append(engine)
        return original_text(engine, *arguments)

    def recording(self, engine) -> None:
        probed.append(engine)
        original_probe(self, engine)

    monkeypatch.setattr(module, "_engines", engines)
    monkeypatch.setattr(module, "time_text", time_text)
    monkeypatch.setattr(Probe, "__init__", recording)
    profile(pipeline, PROMPTS[:1], tmp_path)
    assert list(map(id, timed)) == list(map(id, created[:4]))
    assert len(probed) == 4
    assert not any(engine is other for engine in probed for other in timed)
    assert all("forward" not in vars(engine) for engine in timed)


def test_a_part_that_was_renamed_is_an_error(pipeline, monkeypatch) -> None:
    """A method that no longer exists must not be shown as one that takes no time."""
    engine = pipeline.engine("frspec", tree=SHAPE)
    monkeypatch.delattr(EagleDrafter, "_candidates")
    with pytest.raises(AttributeError, match="_candidates"):
        Probe(engine)


class Killed(Exception):
    """Stands for a process that dies between two prompts."""


@pytest.mark.parametrize("after", [1, 3, 4, 5])
def test_a_killed_profile_resumes(pipeline, tmp_path, after: int) -> None:
    """It dies in the first pass or in the second; what was timed is not timed again, and all prompts are there."""
    finished = [0]

    def die(count: int) -> None:
        finished[0] += count
        if finished[0] == after:
            raise Killed

    with pytest.raises(Killed):
        profile(pipeline, PROMPTS, tmp_path, callbacks=Callbacks(finished=die))
    assert not (tmp_path / "result.json").exists()
    before = {path.name: path.read_bytes() for path in (tmp_path / "result.json.ledger").glob("*-*.json")}
    assert len(before) == after
    measured: list[int] = []
    result = profile(pipeline, PROMPTS, tmp_path, callbacks=Callbacks(finished=measured.append))
    assert sum(measured) == 6
    assert result["profile"]["methods"]["ar"]["cycles"] == 3 * 11
    timed = json.loads(before["cycles-000000.json"])["value"]
    first = result["profile"]["methods"]["ar"]["cycle_ms"]
    assert first["low"] <= 1000 * max(timed["ar"]["cycle"])
    assert not (tmp_path / "result.json.ledger").exists()


@pytest.mark.parametrize("stage", ["cycles", "parts"])
@pytest.mark.parametrize("value", [None, [], {"ar": 5}, {"ar": {"cycle": [0.1]}}, {"ar": {"evil": [0.1]}}])
def test_damaged_times_of_a_stopped_profile_are_named(pipeline, tmp_path, stage: str, value: object) -> None:
    def die(count: int) -> None:
        if (tmp_path / "result.json.ledger" / "parts-000000.json").exists():
            raise Killed

    with pytest.raises(Killed):
        profile(pipeline, PROMPTS, tmp_path, callbacks=Callbacks(finished=die))
    part = tmp_path / "result.json.ledger" / f"{stage}-000000.json"
    part.write_text(json.dumps({"value": value}))
    with pytest.raises(ArtifactError, match=rf"{part}: ") as caught:
        profile(pipeline, PROMPTS, tmp_path)
    assert "restart" in caught.value.hint


def test_a_prompt_that_fails_is_left_out_and_named(pipeline, tmp_path) -> None:
    warnings: list[str] = []
    result = profile(pipeline, [PROMPTS[0], [5] * 510, PROMPTS[1]], tmp_path, callbacks=Callbacks(warn=warnings.append))
    assert result["profile"]["failed"] == 1
    assert result["failures"] == [{"id": "2", "reason": result["failures"][0]["reason"]}]
    assert "do not fit into the model's context of 512" in result["failures"][0]["reason"]
    assert "prompt 2 failed" in warnings[0]
    assert result["profile"]["methods"]["ar"]["cycles"] == 2 * 11


def test_a_probe_changes_no_token(pipeline) -> None:
    plain = pipeline.engine("eagle", tree=SHAPE).complete(PROMPTS[1], max_new_tokens=20)
    engine = pipeline.engine("eagle", tree=SHAPE)
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
    assert "second, instrumented pass" in " ".join(err.split())
    assert "eagle/frspec@64: cycle" in err
    result = json.loads(out.read_text())
    assert list(result["profile"]["methods"]) == ["ar", "eagle", "frspec@32", "frspec@64"]
    assert result["options"]["draft"] == "random"
    assert result["environment"]["threads"]
    code, shown, err = cli("profile", *arguments, "--methods", "ar,lookup", "--json", "-q", "--force")
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
