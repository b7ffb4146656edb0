"""Costs are straight lines between their points, and a cycle is the sum that the docstring states."""

from __future__ import annotations

import json

import pytest

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.errors import ArtifactError
from frspec_cli.tuning.acceptance import length_of, lengths_at, level_chance, scaled, shape
from frspec_cli.tuning.costs import AcceptancePoint, StepCosts, line, read_costs, surface
from frspec_cli.tuning.predict import best_few, predict

COSTS = {
    "dtype": "float32",
    "k": 1000,
    "plain": [{"context": 100, "ms": 10.0}, {"context": 300, "ms": 14.0}],
    "target": [
        {"context": 100, "rows": 2, "ms": 12.0},
        {"context": 100, "rows": 8, "ms": 18.0},
        {"context": 300, "rows": 2, "ms": 16.0},
        {"context": 300, "rows": 8, "ms": 22.0},
    ],
    "level": [{"rows": 1, "ms": 1.0}, {"rows": 4, "ms": 2.5}],
    "head": [
        {"k": 100, "rows": 1, "ms": 0.1},
        {"k": 100, "rows": 4, "ms": 0.4},
        {"k": 1000, "rows": 1, "ms": 1.0},
        {"k": 1000, "rows": 4, "ms": 4.0},
    ],
    "cycle": {"ms": 3.0},
}
FILE = {"kind": "costs", "schema": 1, "machine": {}, "source": "made up", "model": "m", "costs": [COSTS]}


def test_lines_go_on_as_they_end_and_never_fall() -> None:
    assert line([(1, 10.0), (3, 20.0)], 2) == 15.0
    assert line([(3, 20.0), (1, 10.0)], 5) == 30.0
    assert line([(1, 10.0), (3, 20.0)], 0) == 10.0
    assert line([(1, 10.0), (3, 8.0)], 9) == 8.0
    assert line([(4, 7.0)], 100) == 7.0
    assert surface([(0, 0, 0.0), (0, 2, 2.0), (10, 0, 10.0), (10, 2, 12.0)], 5, 1) == 6.0


def test_a_cycle_is_its_parts() -> None:
    costs = StepCosts.model_validate(COSTS)
    assert costs.plain_ms(200) == 12.0
    assert costs.target_ms(5, 200) == 17.0
    # cycle 3, LM head over the root's row 0.1, and two levels of 2 rows: layer 1.5, LM head 0.2
    assert costs.draft_ms(TreeConfig(depth=3, beam=2, nodes=5), 100) == pytest.approx(3 + 0.1 + 2 * (1.5 + 0.2))
    assert costs.cycle_ms(TreeConfig(depth=3, beam=2, nodes=5), 100, 200) == pytest.approx(17 + 6.5)
    assert costs.cycle_ms(TreeConfig(depth=1, beam=2, nodes=2), 1000, 100) == pytest.approx(12 + 3 + 1.0)


def test_predictions_are_acceptance_over_cycle_and_hold_plain_decoding() -> None:
    costs = StepCosts.model_validate(COSTS)
    small, large = TreeConfig(depth=1, beam=2, nodes=2), TreeConfig(depth=3, beam=2, nodes=5)
    acceptance = {100: {small: 1.6, large: 2.5}, 1000: {large: 2.6}}
    ways = predict([costs], acceptance, context=200, methods=("frspec", "eagle"))
    rates = {(way.method, way.k, way.tree): way.rate for way in ways}
    assert rates[("ar", None, None)] == pytest.approx(1000 / 12)
    assert rates[("frspec", 100, small)] == pytest.approx(1000 * 1.6 / (14 + 3 + 0.1))
    assert rates[("frspec", 100, large)] == pytest.approx(1000 * 2.5 / 23.5)
    assert rates[("eagle", 1000, large)] == pytest.approx(1000 * 2.6 / (17 + 3 + 1 + 2 * (1.5 + 2.0)))
    assert [way.rate for way in ways] == sorted(rates.values(), reverse=True)
    assert [(way.method, way.tree) for way in best_few(ways, 1)] == [("ar", None), ("frspec", large)]
    assert {way.method for way in predict([costs], acceptance, context=200, methods=("eagle",))} == {"ar", "eagle"}


def test_a_cost_file_is_read_through_its_schema(tmp_path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(FILE))
    assert read_costs(path).costs[0].plain_ms(100) == 10.0
    path.write_text(json.dumps({"kind": "tune", "costs": FILE}))
    assert read_costs(path).model == "m"
    for change, said in (
        ({"plain": [{"context": 100, "ms": -1.0}]}, "costs.0.plain.0.ms is -1.0; expected at least 0"),
        ({"dtype": "int4"}, "costs.0.dtype is 'int4'"),
        ({"target": [{"context": 100, "rows": 2, "ms": 0.0}]}, "costs.0.target.0.ms is 0.0; expected above 0"),
        ({"head": []}, "costs.0.head is a list of 0; expected at least 1 entries"),
    ):
        path.write_text(json.dumps(FILE | {"costs": [COSTS | change]}))
        with pytest.raises(ArtifactError, match=said):
            read_costs(path)


def test_an_impossible_acceptance_length_is_refused(tmp_path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(FILE | {"acceptance": [{"k": 9, "depth": 2, "beam": 1, "nodes": 3, "length": 3.5}]}))
    with pytest.raises(ArtifactError, match="an acceptance length of at most 3"):
        read_costs(path)


def test_between_two_sizes_acceptance_is_a_straight_line() -> None:
    points = [
        AcceptancePoint(k=100, depth=2, beam=1, nodes=3, length=2.0),
        AcceptancePoint(k=200, depth=2, beam=1, nodes=3, length=2.4),
    ]
    tree = TreeConfig(depth=2, beam=1, nodes=3)
    assert [lengths_at(points, k)[tree] for k in (50, 100, 150, 999)] == pytest.approx([2.0, 2.0, 2.2, 2.4])


def test_another_head_scales_every_tree_alike() -> None:
    assert length_of(0.5, 3) == 1.875
    assert level_chance(1.875, 3) == pytest.approx(0.5)
    known = {TreeConfig(5, 4, 16): length_of(0.6, 5), TreeConfig(2, 2, 4): length_of(0.5, 2)}
    same = scaled(known, TreeConfig(5, 4, 16), length_of(0.6, 5))
    assert same == pytest.approx(known)
    better = scaled(known, TreeConfig(5, 4, 16), length_of(0.72, 5))
    assert better[TreeConfig(5, 4, 16)] == pytest.approx(length_of(0.72, 5))
    assert better[TreeConfig(2, 2, 4)] == pytest.approx(length_of(0.6, 2))
    best = scaled(known, TreeConfig(5, 4, 16), 6.0)
    assert best[TreeConfig(2, 2, 4)] <= 3


def test_the_shipped_shape_grows_with_depth_and_with_nodes() -> None:
    lengths = shape()
    assert lengths[TreeConfig(5, 4, 16)] == 2.9873
    for (depth, beam, nodes), length in {(t.depth, t.beam, t.nodes): v for t, v in lengths.items()}.items():
        assert 1 < length < depth + 1
        fewer = [v for t, v in lengths.items() if t.depth == depth and t.beam == beam and t.nodes < nodes]
        assert all(value <= length for value in fewer)
