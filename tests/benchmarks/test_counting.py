"""The counting benchmark: it compares counts before it compares speeds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import counting
from frspec_cli.errors import VerificationError
from tests.counting.corpora import byte_level, texts, write_jsonl


def test_one_run_gives_all_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl.zst", texts(50))
    tokenizer = byte_level(tmp_path / "tokenizer")
    out = tmp_path / "result.json"
    arguments = [str(path), "--tokenizer", str(tokenizer), "--workers", "1", "--plain-mb", "0.001", "--out", str(out)]
    assert counting.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(out.read_text())
    assert result["plain_loop"]["megabytes"] >= 0.001
    assert result["encoder_alone"]["megabytes"] == result["count_freq"]["megabytes"]
    assert result["count_freq"]["startup_seconds"] > 0
    ratio = result["count_freq"]["megabytes_per_second"] / result["plain_loop"]["megabytes_per_second"]
    assert result["times_the_plain_loop"] == pytest.approx(ratio)


def test_counts_that_differ_fail_the_run() -> None:
    counting._check(np.array([0, 2, 1]), Counter({1: 2, 2: 1}), "the loop")
    with pytest.raises(VerificationError, match="count-freq and the loop differ at 1 ids; the first is 1: 2 and 3"):
        counting._check(np.array([0, 2, 1]), Counter({1: 3, 2: 1}), "the loop")
