"""Transformers alone as the judge: it agrees with an honest engine, and finds what re-scoring by the engine's passes cannot."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from frspec_cli.answers.batched_decode import TokenizedPrompt
from frspec_cli.decoding import attention
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import load_target
from frspec_cli.verification import stock
from frspec_cli.verification.options import VerifyOptions
from frspec_cli.verification.rules import STOCK, Verifier
from frspec_cli.verification.run import Verification
from tests.decoding.families import FAMILIES
from tests.models.test_target import family_model

PROMPT = [3, 9, 27, 81, 5, 6, 7, 8, 4, 2, 60]


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Gemma3Text", "Cohere2"])
@pytest.mark.parametrize("rows", [4, 256])
def test_it_scores_a_text_as_transformers_generates_it(family: str, rows: int, monkeypatch) -> None:
    monkeypatch.setattr(stock, "ROWS", rows)
    assert family in FAMILIES
    model = family_model(family)
    model.set_attn_implementation("eager")
    expected = model.generate(
        torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, len(PROMPT) :].tolist()
    found = stock.score(model, PROMPT, expected)
    assert found["best"] == expected
    logits = model(input_ids=torch.tensor([PROMPT + expected])).logits[0, len(PROMPT) - 1 : -1].topk(2).values
    assert found["margin"] == pytest.approx((logits[:, 0] - logits[:, 1]).tolist(), abs=1e-5)
    planted = [*expected[:7], (expected[7] + 1) % 96, *expected[8:]]
    assert stock.score(model, PROMPT, planted)["best"][7] == expected[7]


@pytest.fixture
def in_this_process(monkeypatch) -> None:
    """The judge's process, run here: its stdin and stdout are strings."""

    def run(command: list[str], *, input: str, **options: Any) -> Any:
        assert command[1:] == ["-m", "frspec_cli.verification.stock"]
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO(input))
            patch.setattr(sys, "stdout", out)
            stock.main()
        return subprocess.CompletedProcess(command, 0, out.getvalue(), "")

    monkeypatch.setattr(stock, "subprocess", SimpleNamespace(run=run))


def _verify(folder: Path, *, rescored: int) -> dict[str, Any]:
    def load(dtype: str) -> Pipeline:
        return Pipeline(load_target(str(folder), device="cpu", dtype=dtype))

    options = VerifyOptions(method="lookup", max_new_tokens=20, rescored=rescored, stock=2, stepwise=1, sampled=0)
    prompts = [TokenizedPrompt(name, "", tuple(ids)) for name, ids in (("a", PROMPT), ("b", [5, 17]), ("c", [9]))]
    return Verification(Verifier(load, options), prompts).run()


def test_an_honest_engine_passes(tiny_folder, in_this_process) -> None:
    result = _verify(tiny_folder, rescored=0)
    assert [(check["name"], check["prompts"], check["identical"]) for check in result["checks"]] == [
        ("greedy, step by step", 1, 1),
        (STOCK, 2, 2),
    ]
    assert result["passed"]


def test_what_all_passes_of_the_engine_share_is_found(tiny_folder, in_this_process, monkeypatch) -> None:
    """Attention with half the scaling: plain decoding, drafts and re-scoring agree with one another, and all are wrong."""
    honest = attention.grouped_attention

    def wrong(*tensors: Any, scaling: float, **options: Any) -> torch.Tensor:
        return honest(*tensors, scaling=scaling / 2, **options)

    monkeypatch.setattr(attention, "grouped_attention", wrong)
    result = _verify(tiny_folder, rescored=3)
    checks = {check["name"]: check["passed"] for check in result["checks"]}
    assert checks == {"greedy, re-scored": True, "greedy, step by step": True, STOCK: False}
    assert not result["passed"]


def test_a_process_that_fails_is_one_sentence(tmp_path, monkeypatch) -> None:
    def run(command: list[str], **options: Any) -> Any:
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nOSError: no weights there.\n")

    monkeypatch.setattr(stock, "subprocess", SimpleNamespace(run=run))
    with pytest.raises(
        FrspecError, match=r"transformers alone could not score the texts: OSError: no weights there\.$"
    ):
        stock.scores(tmp_path, [([1], [2])], dtype="float32", device="cpu")
