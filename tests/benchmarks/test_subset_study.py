"""The study of counts: its correlation, and that a stopped one resumes."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks import subset_study as module
from benchmarks.subset_study import correlations, main, spearman


def test_spearmans_correlation_takes_ties_at_their_mean_rank() -> None:
    assert spearman([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # Ranks 0, 1.5, 1.5, 3 and 0, 2, 1, 3: the textbook's 0.9487.
    assert spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.948683)
    assert np.isnan(spearman([1, 1], [1, 2]))
    rows = [{"k": k, "coverage": k + s, "acceptance_length": {"value": k - s}} for k in (10, 200) for s in (1, 2, 3)]
    assert correlations(rows) == pytest.approx({"all": 19 / 35, "10": -1, "200": -1})


def test_a_study_of_a_tiny_model(folder, tiny_folder, tmp_path, monkeypatch, capsys) -> None:
    """All rows are there; a second run measures nothing again, more sizes only more."""
    lines = (folder / "answers.jsonl").read_text().splitlines()
    (tmp_path / "answers.jsonl").write_text("".join(line + "\n" for line in lines * 8))  # 64, so that two are held out

    def run(*more):
        arguments = [
            "--answers",
            tmp_path / "answers.jsonl",
            "--web",
            folder / "counts.parquet",
            "--model",
            tiny_folder,
        ]
        arguments += ["--draft", folder / "head", "--dtype", "float64", "--out", tmp_path / "study.json", *more]
        monkeypatch.setattr(sys, "argv", ["study", *map(str, arguments)])
        main()
        return json.loads((tmp_path / "study.json").read_text())

    first = run("--k", 60, "--tokens", 50, 120)
    names = ["web", "own@50", "mixture@50", "own@120", "mixture@120"]
    assert [row["counts"] for row in first["rows"]] == names
    assert all(0 < row["coverage"] <= 1 and row["acceptance_length"]["value"] >= 1 for row in first["rows"])
    assert set(first["spearman"]) == {"all", "60"}
    measured = []
    real = module.replay
    monkeypatch.setattr(module, "replay", lambda *a, **o: measured.append(1) or real(*a, **o))
    assert run("--k", 60, "--tokens", 50, 120) == first
    assert measured == []
    more = run("--k", 60, 30, "--tokens", 50, 120)
    assert len(measured) == len(names)
    assert [row for row in more["rows"] if row["k"] == 60] == first["rows"]
    with pytest.raises(SystemExit, match="--new-tokens was 96, now it is 9"):
        run("--new-tokens", 9)
    capsys.readouterr()
