"""Whether a list pays, from costs and acceptance: published reports that gained and lost, and a text's own replay."""

from __future__ import annotations

import json

import pytest
import torch

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.tuning.costs import ReplayedPoint, find_costs, read_costs
from frspec_cli.tuning.lists import chains, judge
from frspec_cli.tuning.predict import Way
from tests.mtp import save_mtp_target

FULL, LIST = 248320, 32768


def chain(k: int, steps: int, rate: float, length: float, *, full: int = FULL) -> Way:
    method = "eagle" if k == full else "frspec"
    tree = TreeConfig(depth=steps, beam=1, nodes=steps + 1)
    return Way(method, "float16", rate, k, tree, length, 1000 * length / rate)


def test_a_published_list_gains_where_it_was_made_for_and_loses_elsewhere() -> None:
    """The blog and the check that the shipped costs cite: 3 drafts of its own text, 4 of a technical document."""
    gains = judge([chain(FULL, 3, 117.1, 1 + 3 * 0.667), chain(LIST, 3, 121.7, 1 + 3 * 0.636)])
    loses = judge([chain(FULL, 4, 109.7, 1 + 4 * 0.681), chain(LIST, 4, 105.6, 1 + 4 * 0.608)])
    assert gains["sentence"] == (
        "On this text this list gains: 121.7 tokens/s predicted at its best (k 32,768, 3 steps), 117.1 with all 248,320 rows "
        "(3 steps): +3.9%."
    )
    assert loses["sentence"] == (
        "On this text this list loses: 105.6 tokens/s predicted at its best (k 32,768, 4 steps), 109.7 with all 248,320 rows "
        "(4 steps): -3.7%."
    )
    assert (gains["verdict"], loses["verdict"]) == ("gains", "loses")


def test_what_is_not_drafted_both_ways_has_no_verdict() -> None:
    assert judge([chain(FULL, 3, 117.1, 3.0)]) is None
    assert judge([Way("ar", "float16", 60.0), chain(LIST, 3, 121.7, 2.9)]) is None


def replayed(way: Way, cycles: list[int], accepted: list[int]) -> ReplayedPoint:
    tree = way.tree
    return ReplayedPoint(
        k=way.k, depth=tree.depth, beam=1, nodes=tree.nodes, length=1 + sum(accepted) / sum(cycles), cycles=cycles,
        accepted=accepted,
    )  # fmt: skip


@pytest.mark.parametrize(("accepted", "verdict"), [([5, 5, 5], "loses"), ([12, 12, 12], "gains"), ([2, 20, 8], "open")])
def test_the_interval_draws_answers_for_both_together(accepted, verdict) -> None:
    """A list whose cycles take 8 ms beside 10 ms. Answers that are all alike leave no doubt, unlike ones do."""
    ways = [chain(FULL, 2, 200.0, 2.0), chain(LIST, 2, 1000 * (1 + sum(accepted) / 30) / 8, 1 + sum(accepted) / 30)]
    counts = {
        (FULL, ways[0].tree): replayed(ways[0], [10, 10, 10], [10, 10, 10]),
        (LIST, ways[1].tree): replayed(ways[1], [10, 10, 10], accepted),
    }
    found = judge(ways, counts)
    tokens = sum(accepted) + sum(counts[LIST, ways[1].tree].cycles)
    by_hand = tokens / (sum(counts[LIST, ways[1].tree].cycles) * ways[1].step_ms) / (60 / 300)
    assert found["ratio"]["value"] == pytest.approx(by_hand)
    assert found["verdict"] == verdict
    assert (found["ratio"]["low"] < found["ratio"]["high"]) is (verdict == "open")
    assert ("so few answers do not show" in found["sentence"]) is (verdict == "open")


def test_the_k_that_pays_is_found_for_each_length_of_chain() -> None:
    tree = Way("eagle", "float16", 999.0, FULL, TreeConfig(2, 2, 5), 2.0, 2.0)  # no chain
    rows = chains([
        chain(FULL, 1, 90.0, 1.6), chain(LIST, 1, 89.0, 1.5), chain(FULL, 2, 91.0, 2.0), chain(LIST, 2, 95.0, 1.9), tree,
    ])  # fmt: skip
    assert [(row["steps"], row["k"]) for row in rows] == [(1, FULL), (2, LIST)]
    assert [way["predicted"] for way in rows[1]["ways"]] == [91.0, 95.0]


def test_the_shipped_costs_meet_the_sweep_that_they_cite(cli, tmp_path) -> None:
    costs = read_costs(find_costs("qwen3.8-27b-mtp"))
    each = costs.costs[0]
    for steps, ms, rate in ((1, 18.81, 87.70), (2, 20.67, 100.64), (3, 21.89, 100.86), (6, 31.55, 74.46)):
        tree = TreeConfig(depth=steps, beam=1, nodes=steps + 1)
        length = next(point.length for point in costs.acceptance if point.depth == steps)
        assert each.cycle_ms(tree, FULL, 400) == pytest.approx(ms, abs=0.001)
        assert 1000 * length / each.cycle_ms(tree, FULL, 400) == pytest.approx(rate, abs=0.01)
    tree = TreeConfig(depth=3, beam=1, nodes=4)  # what the list saves there is what the blog's two cycles differ by
    saved = (1 + 3 * 0.667) / 117.1 - (1 + 3 * 0.636) / 121.7
    assert each.cycle_ms(tree, FULL, 400) - each.cycle_ms(tree, LIST, 400) == pytest.approx(1000 * saved, abs=0.001)
    code, out, err = cli("tune", "--costs", "qwen3.8-27b-mtp", "--out", tmp_path / "t.json", "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["lists"] is None
    assert [(way["depth"], round(way["predicted"], 1)) for way in shown["ways"]] == [
        (None, 67.1), (3, 100.9), (2, 100.6), (1, 87.7), (6, 74.5),
    ]  # fmt: skip


# --- on a text


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    """A target with linear attention, its answers, a list that leaves out much of them, and costs."""
    from tests.tiny import run_cli

    place = tmp_path_factory.mktemp("hybrid")
    folder = save_mtp_target(place / "q", "Qwen3_5Text")
    lines = [json.dumps({"prompt": text}) for text in ("the fox", "a hen runs", "one by one", "over the lazy dog")]
    (place / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    common = ["--model", folder, "--device", "cpu", "--dtype", "float32", "-q"]
    code, _, err = run_cli("collect", place / "prompts.jsonl", *common, "-n", 24, "--out", place / "a.jsonl")
    assert code == 0, err
    torch.save(list(range(0, 320, 2)), place / "freq.pt")
    code, _, err = run_cli("import-vocab", place / "freq.pt", "--tokenizer", folder, "--out", place / "s.parquet")
    assert code == 0, err
    for name, head in (("cheap", 0.1), ("dear", 30.0)):
        (place / f"{name}.json").write_text(json.dumps(costs_file(head)))
    return place


def costs_file(head_ms: float, *, rows: int = 320) -> dict:
    """Costs in which the whole LM head takes `head_ms`, and a row its share."""
    costs = {
        "dtype": "float32", "k": rows, "plain": [{"context": 1, "ms": 10.0}],
        "target": [{"context": 1, "rows": 1, "ms": 10.0}, {"context": 1, "rows": 9, "ms": 12.0}],
        "level": [{"rows": 1, "ms": 0.5}],
        "head": [{"k": k, "rows": 1, "ms": head_ms * k / rows} for k in (1, rows)], "cycle": {"ms": 0.5},
    }  # fmt: skip
    return {"kind": "costs", "schema": 1, "machine": {}, "source": "a stopwatch", "model": "m", "costs": [costs]}


def tuned(cli, hybrid, tmp_path, costs, *more):
    return cli(
        "tune", hybrid / "a.jsonl", "--model", hybrid / "q", "--draft", "mtp", "--vocab", hybrid / "s.parquet",
        "--costs", hybrid / f"{costs}.json", "--device", "cpu", "--dtype", "float32", "-n", 20,
        "--out", tmp_path / f"{costs}.json", *more,
    )  # fmt: skip


def test_a_list_for_the_module_of_a_hybrid_gains_or_loses_by_the_costs(cli, hybrid, tmp_path) -> None:
    """Acceptance is that of replay at the same chains, and the rates are acceptance over cost."""
    code, out, err = cli(
        "replay", hybrid / "a.jsonl", "--model", hybrid / "q", "--draft", "mtp", "--vocab", hybrid / "s.parquet",
        "--device", "cpu", "--dtype", "float32", "-n", 20, "--tree", "6,1,7", "--out", tmp_path / "r.json", "--json", "-q",
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads(out)["summary"]
    for costs, verdict, head in (("cheap", "loses", 0.1), ("dear", "gains", 30.0)):
        code, out, err = tuned(cli, hybrid, tmp_path, costs, "--json")
        assert code == 0, err
        lists = json.loads(out)["lists"]
        assert lists["verdict"] in (verdict, "open")
        assert (lists["ratio"]["value"] < 1) is (verdict == "loses")
        assert [row["steps"] for row in lists["chains"]] == [1, 2, 3, 4, 5, 6]
        assert {way["k"] for row in lists["chains"] for way in row["ways"]} == {160, 320}
        for way in lists["chains"][5]["ways"]:
            arm = summary["eagle" if way["k"] == 320 else "frspec"]
            assert way["acceptance_length"] == pytest.approx(arm["acceptance_length"], abs=1e-4)
            cycle = 10 + 2 * 6 / 8 + 0.5 + 5 * 0.5 + 6 * head * way["k"] / 320
            assert way["predicted"] == pytest.approx(1000 * way["acceptance_length"] / cycle, rel=1e-3)
    code, out, err = tuned(cli, hybrid, tmp_path, "dear")
    assert "the k that pays" in out
    assert "On this text this list" in err


def test_what_costs_cannot_say_is_one_sentence(cli, hybrid, tmp_path) -> None:
    (hybrid / "other.json").write_text(json.dumps(costs_file(1.0, rows=400)))
    for costs, more, code, said in (
        ("other", [], 1, "the costs are of a draft LM head of 400 rows, that of"),
        (
            "dear",
            ["--beams", "1,2"],
            2,
            "has layers of linear attention, where no engine can verify a tree with branches",
        ),
    ):
        found, _, err = tuned(cli, hybrid, tmp_path, costs, *more)
        assert (found, said in " ".join(err.split())) == (code, True), err
    code, _, err = cli(
        "tune", hybrid / "a.jsonl", "--model", hybrid / "q", "--draft", "mtp", "--vocab", hybrid / "s.parquet",
        "--device", "cpu", "--dtype", "float32", "--out", tmp_path / "here.json",
    )  # fmt: skip
    assert code == 1  # its steps cannot be measured here: no engine decodes it speculatively
    assert "has linear_attention layers" in " ".join(err.split())
