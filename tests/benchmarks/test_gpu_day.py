"""`make gpu-day` on the CPU with a tiny shape: every stage runs, and `frspec tune --costs` reads what it writes."""

from __future__ import annotations

import json

from benchmarks import gpu_day
from frspec_cli.tuning.tune_file import read_tune

TINY = ["--shape", "tiny", "--device", "cpu", "--tree", "3,2,6", "--tokens", "4", "--rounds", "1"]


def test_every_stage_runs_on_a_tiny_shape(tmp_path, capsys, cli, monkeypatch) -> None:
    monkeypatch.setattr(gpu_day, "compiler_for", lambda device: lambda step: step)
    assert gpu_day.main([*TINY, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "gpu-day.json").read_text())
    assert result["skipped"] == []
    assert list(result["stages"]) == [
        "identity, float64", "V 320, memory", "V 320, attention", "V 320, eager", "identity, bfloat16", "V 320, costs",
        "V 320, compiled, context 24", "V 320, compiled, context 48", "V 400, eager", "V 400, compiled, context 24",
    ]  # fmt: skip
    stages = result["stages"]
    assert all(each["identical"] for each in stages["identity, float64"]["methods"].values())
    assert all(each["identical"] or "near_tie" in each for each in stages["identity, bfloat16"]["methods"].values())
    assert list(stages["V 320, eager"]["contexts"]["48"]) == ["ar", "eagle", "frspec@64", "frspec@128"]
    # 4 layers, 2 heads of 8 numbers, keys and values, 2 bytes each
    assert stages["V 320, memory"]["slot_bytes"] == 4 * 2 * 8 * 2 * 2
    assert all(names for name, names in stages["V 320, attention"].items() if name != "seconds")
    rows = {(row["compiled"], row["context"], row["arm"]): row for row in result["predicted"]}
    assert rows[False, 24, "ar"]["tokens_per_second"] == 1000 / rows[False, 24, "ar"]["cycle_ms"]
    assert rows[True, 48, "eagle"]["acceptance_length"] is None  # the paper has no vocabulary of 320
    assert rows[False, 24, "ar"]["paper"] == 89.11
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "gpu-day.md").read_text()
    assert "| compiled | 48 | frspec@128 |" in shown
    code, _, err = cli("tune", "--costs", tmp_path / "gpu-day.json", "--out", tmp_path / "tune.json")
    assert code == 0, err
    tune = read_tune(tmp_path / "tune.json")
    assert tune.costs.costs[0].compiled
    assert {point.k for point in tune.acceptance} == {8192, 16384, 32768, 65536, 128256}


def test_what_there_is_no_time_for_is_named(tmp_path) -> None:
    assert gpu_day.main([*TINY, "--out", str(tmp_path), "--seconds", "0"]) == 3
    result = json.loads((tmp_path / "gpu-day.json").read_text())
    assert [each["stage"] for each in result["skipped"]] == ["identity, float64", "V 320", "V 400"]
    assert {each["reason"] for each in result["skipped"]} == {"no time was left"}


def test_the_large_shape_is_refused_without_a_card(tmp_path, capsys) -> None:
    assert gpu_day.main(["--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "--shape tiny runs anywhere" in capsys.readouterr().err
