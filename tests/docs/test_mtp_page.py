"""The path of docs/mtp.md runs as it stands, on a tiny Qwen3.5 in place of the published one, and smaller numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.docs.commands import Line, path_of
from tests.mtp import save_mtp_target
from tests.tiny import TEXT, run_cli

PAGE = ROOT / "docs" / "mtp.md"
INSTEAD = {"Qwen/Qwen3.5-9B": "qwen", "65536": "256", "32768": "128", "248320": "320", "512": "24"}


def tiny(text: str) -> str:
    for published, ours in INSTEAD.items():
        text = text.replace(published, ours)
    return text


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page's user has: the model, two sets of prompts, and costs. The working folder."""
    save_mtp_target(tmp_path / "qwen", "Qwen3_5Text")
    words = " ".join(TEXT).split()
    for name, first in (("prompts", 0), ("other-prompts", 1)):
        prompts = [" ".join(words[start : start + 4]) for start in range(first, len(words) - 4, 6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in prompts))
    [costs] = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "costs.json").write_text(tiny(costs))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: Line, *more: str) -> tuple[str, str]:
    arguments = [tiny(word) for word in line.arguments() or []]
    code, out, err = run_cli(*arguments, *more)
    assert code == 0, f"{line}\n{err}"
    return out, err


def test_the_page_runs_as_typed(place: Path) -> None:
    collect, count, build, replay, tune = path_of("mtp", PAGE)
    small = ("--device", "cpu", "--dtype", "float32")
    run(collect, *small)
    run(count)
    run(build)
    figures = json.loads(run(replay, *small, "--json")[0])["summary"]
    full = figures["eagle"]
    assert set(figures) == {"eagle", "frspec", "frspec@256", "frspec@128"}
    assert (full["depth"], full["beam"], full["nodes"]) == (3, 1, 4)
    for k in (256, 128):
        each = figures[f"frspec@{k}"]
        assert each["k"] == k
        assert each["kept"]["low"] <= each["kept"]["value"] <= each["kept"]["high"]
        assert sum(each["misses"].values()) == each["cycles"]
        assert len(each["depths"]) == 3
        assert each["languages"]
    assert full["misses"]["outside"] == 0 < figures["frspec@128"]["misses"]["outside"]
    out, err = run(tune, *small)
    assert "the k that pays" in out
    assert re.search(r"On this text this list (gains|loses)|Whether this list gains on this text", err)

    build, *exports, rows = path_of("mtp-list", PAGE)
    run(build)
    for line in exports:
        run(line)
    run(rows)
    ids = [int(line) for line in (place / "draft_vocab.txt").read_text().split()]
    assert len(ids) == 128
    assert ids == sorted(set(ids))
    assert sum(index < 160 for index in ids) == 64
    assert torch.load(place / "mtp_draft_vocab_ids.pt").tolist() == ids
    assert (place / "draft_head_ids.bin").read_bytes() == b"".join(index.to_bytes(4, "little") for index in ids)
    written = load_file(place / "rows" / "model.safetensors")
    assert written["draft_vocab_ids"].tolist() == ids
    assert torch.equal(
        written["mtp.draft_lm_head.weight"], load_file(place / "qwen" / "model.safetensors")["lm_head.weight"][ids]
    )
