"""`frspec tune` on a tiny model: what it predicts follows from what it records, and other commands take the result.

Its times are this machine's, so no test looks at how large they are.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.tuning.costs import read_costs
from frspec_cli.tuning.tune_file import About, cached_path, other_machine, read_tune

SMALL = ["--contexts", "24,48", "--rounds", 1, "--prompts", 2, "--measured", 2, "--beams", "1,2", "-n", 12]


@pytest.fixture(scope="module")
def arguments(folder, tiny_folder) -> list:
    return ["--model", tiny_folder, "--draft", folder / "head", "--vocab", folder / "s.parquet", "--device", "cpu"]


@pytest.fixture(scope="module")
def tuned(folder, arguments, tmp_path_factory):
    """(the result's path, where it was kept) of a tune on the tiny model's answers."""
    from tests.conftest import FAST_BFLOAT16
    from tests.tiny import run_cli

    place = tmp_path_factory.mktemp("tuned")
    patch = pytest.MonkeyPatch()
    from frspec_cli.tuning.probe import Probe

    patch.setattr("frspec_cli.tuning.choose.probe_for", lambda *_, **__: Probe.model_validate(FAST_BFLOAT16))
    patch.setattr("frspec_cli.tuning.tune_file.kept", lambda kind, key: place / f"kept-{kind}.json")
    code, out, err = run_cli(
        "tune", folder / "answers.jsonl", *arguments, *SMALL, "--dtype", "float32", "--out", place / "tune.json",
        "--methods", "frspec,eagle", "--json",
    )  # fmt: skip
    patch.undo()
    assert code == 0, err
    assert json.loads(out)["out"] == str(place / "tune.json")
    return place


def test_predictions_are_recorded_acceptance_over_recorded_costs(tuned) -> None:
    tune = read_tune(tuned / "tune.json")
    costs = tune.costs.costs[0]
    assert (costs.dtype, costs.k, costs.estimated) == ("float32", 320, False)
    assert {point.context for point in costs.plain} == {24, 48}
    assert {point.k for point in costs.head} == {160, 320}
    lengths = {(point.k, point.tree): point.length for point in tune.acceptance}
    drafted = [each for each in tune.ways if each.depth is not None]
    assert len(drafted) == 2
    for each in drafted:
        way = each.way
        cycle = costs.cycle_ms(way.tree, way.k, tune.context)
        assert each.acceptance_length == lengths[way.k, way.tree]
        assert each.predicted == pytest.approx(1000 * each.acceptance_length / cycle)
        assert way.measured
        assert way.rate == each.measured.tokens_per_second
    plain = next(each for each in tune.ways if each.depth is None)
    assert plain.predicted == pytest.approx(1000 / costs.plain_ms(tune.context))
    assert plain.measured.speedup["value"] == 1.0


def test_the_acceptance_is_replays(tuned, folder, arguments, cli, tmp_path) -> None:
    tune = read_tune(tuned / "tune.json")
    by_tree = {(point.k, point.tree): point.length for point in tune.acceptance}
    trees = [TreeConfig(6, 2, 16), TreeConfig(6, 1, 4)]
    code, out, err = cli(
        "replay", folder / "answers.jsonl", *arguments, "--dtype", "bfloat16", "-n", 12, "--json", "--quiet",
        "--out", tmp_path / "r.json", *(part for t in trees for part in ("--tree", f"{t.depth},{t.beam},{t.nodes}")),
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads(out)["summary"]
    for tree in trees:
        replayed = summary[f"frspec {tree.depth},{tree.beam},{tree.nodes}"]["acceptance_length"]
        # tune replays in float32 here, replay in bfloat16: a tie may fall the other way
        assert by_tree[160, tree] == pytest.approx(replayed, abs=0.1)


def test_generate_bench_and_verify_take_the_result(tuned, folder, arguments, cli, tmp_path) -> None:
    best = next(each.way for each in read_tune(tuned / "tune.json").ways if each.depth and each.method == "frspec")
    config = ["--config", tuned / "tune.json"]
    code, out, err = cli("generate", "the fox", *arguments, *config, "--method", "frspec", "-n", 6, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert TreeConfig(record["depth"], record["beam"], record["nodes"]) == best.tree
    assert (record["dtype"], record["choice"]["source"]) == ("float32", "config")
    code, out, _ = cli("generate", "the fox", *arguments, *config, "--depth", 1, "-n", 6, "--json", "--quiet")
    assert json.loads(out)["depth"] == 1
    code, _, err = cli(
        "bench", "--suite", folder / "prompts.jsonl", *arguments, *config, "--limit", 1, "-n", 4, "--quiet",
        "--out", tmp_path / "bench.json",
    )  # fmt: skip
    assert code == 0, err
    result = json.loads((tmp_path / "bench.json").read_text())
    assert set(result["choices"]) == {"eagle", "frspec"}
    assert result["options"]["dtype"] == "float32"
    code, _, err = cli("verify", *arguments, *config, "--limit", 1, "-n", 4, "--out", tmp_path / "v.json", "--quiet")
    assert code == 0, err
    options = json.loads((tmp_path / "v.json").read_text())["options"]
    assert TreeConfig(options["depth"], options["beam"], options["nodes"]) == best.tree


def test_the_last_tune_of_this_machine_is_used_by_itself(tuned, arguments, cli, monkeypatch) -> None:
    monkeypatch.setattr("frspec_cli.tuning.tune_file.kept", lambda kind, key: tuned / f"kept-{kind}.json")
    _, out, _ = cli("generate", "the fox", *arguments, "--method", "frspec", "-n", 4, "--json", "--quiet")
    assert json.loads(out)["choice"]["source"] == "tune"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cpu_capability", "AVX2", "cpu capability AVX512, here AVX2"),
        ("cpu_bfloat16", False, "cpu bfloat16 True, here False"),
        ("threads", 1, "threads 2, here 1"),
    ],
)
def test_a_machine_whose_torch_may_use_less_is_another(name, value, said, monkeypatch) -> None:
    monkeypatch.setattr("frspec_cli.tuning.tune_file.kept", lambda kind, key: json.dumps(key))
    tuned = {
        "processor": "P",
        "cpu_flags": ["avx2"],
        "cpu_capability": "AVX512",
        "cpu_bfloat16": True,
        "threads": 2,
        "cuda": None,
    }
    about = About(model="m", head="h", subset="s")
    keys = {
        cached_path(about, here, torch="2", device="cpu", compiled=False) for here in (tuned, tuned | {name: value})
    }
    assert other_machine(tuned, tuned | {name: value}) == said
    assert len(keys) == 2


def test_a_config_of_other_files_is_refused_and_of_another_machine_told(tuned, arguments, cli, tmp_path) -> None:
    value = json.loads((tuned / "tune.json").read_text())
    file = tmp_path / "changed.json"
    for name, said in (("model", "another model"), ("head", "another draft head"), ("subset", "another subset")):
        file.write_text(json.dumps(value | {"about": value["about"] | {name: "0"}}))
        code, _, err = cli("generate", "x", *arguments, "--config", file)
        assert code == 1
        assert f"was tuned for {said}." in " ".join(err.split())
    file.write_text(json.dumps(value | {"environment": value["environment"] | {"processor": "Other 9000"}}))
    code, _, err = cli("generate", "x", *arguments, "--config", file, "-n", 2, "--quiet")
    assert code == 0
    assert "was tuned on another machine (processor Other 9000, here" in " ".join(err.split())
    file.write_text(json.dumps({"kind": "costs"}))
    code, _, err = cli("generate", "x", *arguments, "--config", file)
    assert code == 1
    assert "kind is 'costs'; expected 'tune'" in " ".join(err.split())


def test_costs_of_another_machine_are_answered_without_measuring(tuned, folder, arguments, cli, tmp_path) -> None:
    """The tune's own costs with a target that is all but free: then the deepest, widest tree of most acceptance is best."""
    value = json.loads((tuned / "tune.json").read_text())["costs"]
    for point in value["costs"][0]["target"]:
        point["ms"] = 1e-6
    for part in ("level", "head"):
        value["costs"][0][part] = [point | {"ms": 0.0} for point in value["costs"][0][part]]
    (tmp_path / "free.json").write_text(json.dumps(value))
    code, _, err = cli(
        "tune", folder / "answers.jsonl", *arguments, *SMALL, "--costs", tmp_path / "free.json",
        "--out", tmp_path / "there.json",
    )  # fmt: skip
    assert code == 0, err
    tune = read_tune(tmp_path / "there.json")
    best = max(tune.acceptance, key=lambda point: point.length)
    first = max((each for each in tune.ways if each.depth), key=lambda each: each.predicted)
    assert first.acceptance_length == best.length
    assert all(each.measured is None for each in tune.ways)


@pytest.mark.parametrize(("name", "plain", "eagle", "best_k", "best"), [
    ("fr-spec-8b", 89.11, 180.99, 32768, 201.87),
    ("fr-spec-1b", 252.03, 323.51, 16384, 401.90),
])  # fmt: skip
def test_published_figures_are_met_and_their_best_size_found(name, plain, eagle, best_k, best, cli, tmp_path) -> None:
    from frspec_cli.tuning.costs import find_costs

    costs = read_costs(find_costs(name))
    each, tree = costs.costs[0], costs.acceptance[0].tree
    rates = {point.k: 1000 * point.length / each.cycle_ms(tree, point.k, 256) for point in costs.acceptance}
    assert 1000 / each.plain_ms(256) == pytest.approx(plain, rel=0.001)
    assert rates[128256] == pytest.approx(eagle, rel=0.02)
    assert rates[best_k] == max(rates.values()) == pytest.approx(best, rel=0.02)
    code, out, err = cli("tune", "--costs", name, "--out", tmp_path / "there.json", "--json")
    assert code == 0, err
    ways = json.loads(out)["ways"]
    assert ways[0]["method"] == "ar"
    assert max(ways, key=lambda way: way["predicted"])["k"] == best_k


def test_inspect_knows_both_files(tuned, cli, tmp_path) -> None:
    value = json.loads(cli("inspect", tuned / "tune.json", "--json")[1])
    assert (value["kind"], value["ways"], value["measured"]) == ("tune", 3, True)
    (tmp_path / "costs.json").write_text(json.dumps(json.loads((tuned / "tune.json").read_text())["costs"]))
    value = json.loads(cli("inspect", tmp_path / "costs.json", "--json")[1])
    assert (value["kind"], value["dtypes"], value["source"]) == ("costs", ["float32"], "measured by frspec tune")


def test_what_cannot_be_tuned_is_one_sentence(folder, arguments, cli, tmp_path) -> None:
    for more, code, said in (
        (["tune"], 2, "give answers or prompts to tune on, or --costs FILE."),
        (["tune", "--costs", "no-such"], 1, "there is no cost file no-such."),
        (
            ["tune", folder / "answers.jsonl", *arguments, "--beams", "1,x"],
            2,
            "--beams x is not a whole number above 0.",
        ),
        (
            ["tune", folder / "answers.jsonl", *arguments, "--methods", "ar"],
            2,
            "a tune covers frspec and eagle, not ar.",
        ),
        (["tune", tmp_path / "none.jsonl", *arguments], 1, "there is no file"),
    ):
        found, _, err = cli(*more)
        assert found == code, err
        assert said in " ".join(err.split())


def test_a_killed_tune_resumes_behind_what_is_finished(tuned, folder, arguments, cli, tmp_path, monkeypatch) -> None:
    from frspec_cli.tuning import run

    monkeypatch.setattr("frspec_cli.tuning.tune_file.kept", lambda kind, key: tmp_path / "kept.json")
    out = tmp_path / "tune.json"
    command = ["tune", folder / "answers.jsonl", *arguments, *SMALL, "--dtype", "float32", "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr(run, "measure_ways", _killed)
        with pytest.raises(RuntimeError):
            cli(*command)
    parts = {path.name for path in Path(f"{out}.ledger").iterdir()}
    assert {"costs-float32.json", "acceptance-frspec-160-1.json", "acceptance-frspec-160-2.json"} <= parts
    monkeypatch.setattr(run, "measure_costs", _killed)  # neither is done again
    monkeypatch.setattr("frspec_cli.tuning.acceptance_grid.replay_grid", _killed)
    code, _, err = cli(*command)
    assert code == 0, err
    assert "resuming a stopped run" in err
    assert read_tune(out).costs.costs[0].dtype == "float32"
    assert not Path(f"{out}.ledger").exists()


def _killed(*_, **__):
    raise RuntimeError("killed")
