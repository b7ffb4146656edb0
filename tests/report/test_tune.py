"""A tune's ways and costs in a report: tables, the parts of a predicted cycle, and the command."""

from __future__ import annotations

import json

from frspec_cli.report.charts import charts
from frspec_cli.report.commands import command_of
from frspec_cli.report.page import page
from frspec_cli.report.results import read_results
from frspec_cli.report.tables import tables
from frspec_cli.report.text import as_markdown
from tests.report.test_contradictions import tune


def results(tmp_path, record):
    path = tmp_path / "tuned.json"
    path.write_text(json.dumps(record))
    return read_results([path])


def test_a_tunes_costs_are_tables_and_a_picture(tmp_path):
    measured = {
        "tokens_per_second": 50.0, "decode_tokens_per_second": 55.0, "acceptance_length": 2.9,
        "speedup": {"value": 2.0, "low": 1.8, "high": 2.2},
    }  # fmt: skip
    record = tune()
    record["ways"][0]["measured"] = measured
    found = results(tmp_path, record)
    ways, target, draft = tables(found)
    assert [(name, [cell.text for cell in cells]) for name, cells in ways.rows] == [
        ("frspec, k = 64, 4,2,8, float32", ["3.00", "50.0", "60.0", "55.0", "2.00× (1.80–2.20)"])
    ]
    assert (target.columns, [[cell.value for cell in cells] for _, cells in target.rows]) == (
        ("8", "16"),
        [[20.0, 30.0]],
    )
    assert (draft.columns, [(name, [cell.text for cell in cells]) for name, cells in draft.rows]) == (
        ("1", "2"),
        [("its layer", ["–", "4.00"]), ("its LM head, k = 64", ["3.00", "4.00"])],
    )
    assert draft.note == "Once a cycle: 3.00 ms. A token of plain decoding: 15.00 behind 32 tokens."
    [chart] = charts(found)
    assert chart.title == "What a cycle is predicted to cost (tuned)"
    assert {row["series"]: row["value"] for row in chart.spec["data"]["values"]} == {
        "target": 20.0,
        "draft layer": 12.0,
        "draft LM head": 15.0,
        "once a cycle": 3.0,
    }
    html = page(found, title="Tuned")
    assert "frspec tune --costs COSTS" not in html
    assert "frspec tune ANSWERS" not in html  # nothing says that answers were replayed
    assert "2.00× (1.80–2.20)" in as_markdown(tables(found))


def test_the_command_of_a_tune(tmp_path):
    record = tune()
    record["options"] = {"model": "m", "limit": 5, "held_out": True, "answers": 24, "measured_here": True}
    [made] = results(tmp_path, record)
    assert command_of(made) == "frspec tune ANSWERS --model m --limit 5 --held-out"
    record["options"] = {"model": "m", "limit": 5, "measured_here": False}
    [made] = results(tmp_path, record)
    assert command_of(made) == "frspec tune --costs COSTS"
