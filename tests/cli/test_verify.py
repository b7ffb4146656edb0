"""`frspec verify` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def model(tiny_folder: Path) -> list[str]:
    return ["--model", str(tiny_folder), "--device", "cpu", "--method", "lookup", "-n", "20"]


def test_a_lossless_run_says_so(cli, model) -> None:
    code, out, err = cli("verify", *model, "--limit", 2)
    assert code == 0
    assert "greedy, re-scored" in out
    assert "seeded sampling" in out
    assert "lossless on these prompts" in err


def test_json_is_one_object(cli, model) -> None:
    code, out, _ = cli("verify", *model, "--limit", 2, "--json", "-q", "--dtype", "float64")
    found = json.loads(out)
    assert code == 0
    assert (found["passed"], found["prompts"], found["identical"], found["differences"]) == (True, 2, 2, [])
    assert found["sampling"]["identical"] == 2


def test_a_lossy_run_exits_with_3(cli, model, monkeypatch) -> None:
    from frspec_cli.decoding import engine
    from frspec_cli.decoding.walk import walk

    def lossy(tree, chosen, depth):
        return walk(tree, chosen if tree.nodes == 1 else (chosen + 1) % 320, depth)

    monkeypatch.setattr(engine, "walk", lossy)
    code, _, err = cli("verify", *model, "--limit", 1)
    assert code == 3
    assert "DIFFERENCE: greedy, re-scored, prompt 1, token 1" in err
    assert "an output differs from plain decoding's" in " ".join(err.split())


@pytest.mark.parametrize("more", [["--reference", "magic"], ["--method", "ar"]])
def test_wrong_options_are_usage(cli, more) -> None:
    code, out, err = cli("verify", *more)
    assert (code, out) == (2, "")
    assert "is n" in err
