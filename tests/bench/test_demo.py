"""The demo compares every text with plain decoding's, and lets `verify`'s rule judge what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from frspec_cli.bench import demo
from frspec_cli.bench.untrained import with_untrained_head
from frspec_cli.decoding import engine
from frspec_cli.decoding.walk import walk
from frspec_cli.verification import identity


@pytest.fixture
def spoiled_dtypes(monkeypatch, tiny_folder: Path) -> set[str]:
    """The demo on the tiny model, with a random head; in these dtypes a tree's tokens are wrong."""
    dtypes: set[str] = set()
    current: list[str] = []
    load_target, load_pipeline = demo.load_target, demo.load_pipeline

    def noting(name: str, *, dtype: str) -> Any:
        current.append(dtype)
        return load_target(str(tiny_folder), device="cpu", dtype=dtype)

    def spoiled(tree, chosen, depth):
        wrong = current[-1] in dtypes and tree.nodes > 1
        return walk(tree, (chosen + 1) % 320 if wrong else chosen, depth)

    monkeypatch.setattr(demo, "load_target", noting)
    monkeypatch.setattr(demo, "load_pipeline", lambda target, **named: with_untrained_head(load_pipeline(target), k=64))
    monkeypatch.setattr(demo, "MAX_NEW_TOKENS", 10)
    monkeypatch.setattr(engine, "walk", spoiled)
    return dtypes


def test_equal_texts_are_identical(cli, spoiled_dtypes, tmp_path) -> None:
    code, shown, err = cli("demo", "--dtype", "float32", "--out", tmp_path)
    assert code == 0, err
    assert shown.count("yes") == 3
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["identical"], summary["near_ties"], summary["differences"]) == (True, [], [])
    assert list(summary["methods"]) == ["ar", "eagle", "frspec"]


def test_a_difference_is_a_failure(cli, spoiled_dtypes, tmp_path) -> None:
    spoiled_dtypes.add("float32")
    code, shown, err = cli("demo", "--dtype", "float32", "--out", tmp_path)
    assert code == 3
    assert shown.count("NO") == 2
    assert "eagle differs from plain decoding on prompt 1 at token 1 (top-2 margin" in " ".join(err.split())


@pytest.mark.parametrize("float64", [False, True])
def test_near_ties_are_decided_in_float64(cli, spoiled_dtypes, tmp_path, monkeypatch, float64: bool) -> None:
    """Every difference is taken for a near tie here: explained if the texts are equal in float64, and only then."""
    monkeypatch.setattr(identity, "NEAR_TIE", float("inf"))
    spoiled_dtypes |= {"float32", "float64"} if float64 else {"float32"}
    code, shown, err = cli("demo", "--dtype", "float32", "--out", tmp_path)
    assert code == (3 if float64 else 0), err
    summary = json.loads((tmp_path / "summary.json").read_text())
    explained, unexplained = summary["near_ties"], summary["differences"]
    assert len(unexplained if float64 else explained) == 2 * 6
    assert not (explained if float64 else unexplained)
    assert ("0 of 6, 6 near ties (equal in float64)" in shown) == (not float64)
