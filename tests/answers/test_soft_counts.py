"""Soft counts are the sums of the target's own probabilities, whatever batch or kill came between."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from frspec_cli.answers import soft_counts as module
from frspec_cli.answers.collect import CollectOptions, Listener, collect
from frspec_cli.answers.records import read_answers
from frspec_cli.counting.merge import merge
from frspec_cli.counting.table import FOLDS, FrequencyTable
from frspec_cli.counting.worker import fold_of
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import load_target
from frspec_cli.subsets.eval_table import SOFT_UNITS

TEXTS = ["the fox", "a lighthouse keeper counts", "def count(tokens):", "hen", "one by one"]
OPTIONS = CollectOptions(max_new_tokens=10, batch_size=2, sampling=Sampling(temperature=0.8, top_p=0.9, seed=2))


@pytest.fixture(scope="module")
def target(tiny_folder):
    return load_target(str(tiny_folder), device="cpu", dtype="float64")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [{"prompt": text, "source": "ab"[i % 2]} for i, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def direct(target, records, top):
    """source -> float64 [FOLDS, V], one plain pass over each record."""
    total = {source: np.zeros((FOLDS, 320)) for source in "ab"}
    for record in records:
        ids = record["prompt_token_ids"] + record["response_token_ids"]
        laws = target.model(input_ids=torch.tensor([ids])).logits[0].softmax(-1)
        fold = fold_of(record["conversations"][0]["content"].encode())
        for law in laws[len(record["prompt_token_ids"]) - 1 : -1]:
            best = law.topk(top)
            total[record["source"]][fold, best.indices] += best.values.numpy()
    return total


@pytest.mark.parametrize("top", [256, 3])
def test_they_are_what_a_plain_pass_gives(target, prompts, tmp_path, monkeypatch, top):
    """Every position of every answer, the first token and an end of sequence among them; float64, to one millionth."""
    monkeypatch.setattr(module, "TOP", top)
    monkeypatch.setattr(module, "_HELD", 700)  # summed up in between
    out, soft = tmp_path / "a.jsonl", tmp_path / "soft.parquet"
    collect(target, prompts, out, OPTIONS, soft_counts=soft)
    records = [json.loads(line) for line in out.read_text().splitlines()]
    table = FrequencyTable.read(soft)
    expected = direct(target, records, top)
    assert table.sources == ["a", "b"]
    for source, mass in expected.items():
        assert np.abs(table.counts[source] - np.rint(mass * SOFT_UNITS)).max() <= 1
    positions = sum(len(record["response_token_ids"]) for record in records)
    assert (table.metadata["kind"], table.metadata["tokens"], table.metadata["documents"]) == ("soft", positions, 5)
    if top == 256:  # of 320 tokens: nearly all of a position's probability
        assert 0.99 * positions < table.totals().sum() / SOFT_UNITS <= positions * (1 + 1e-6)


class Killed(BaseException):
    """As sudden as kill -9 can be inside a process."""


def test_a_killed_run_goes_on_to_the_same_bytes(target, prompts, tmp_path):
    collect(target, prompts, tmp_path / "u.jsonl", OPTIONS, soft_counts=tmp_path / "soft.parquet")
    undisturbed = (tmp_path / "soft.parquet").read_bytes()
    (tmp_path / "soft.parquet").unlink()

    def kill(answers):
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            collect(
                target, prompts, tmp_path / "k.jsonl", OPTIONS, soft_counts=tmp_path / "soft.parquet",
                listener=Listener(finished=kill),
            )  # fmt: skip
        assert not (tmp_path / "soft.parquet").exists()
    with pytest.raises(FrspecError, match=r"--soft-counts was soft\.parquet, now it is not given"):
        collect(target, prompts, tmp_path / "k.jsonl", OPTIONS)
    collect(target, prompts, tmp_path / "k.jsonl", OPTIONS, soft_counts=tmp_path / "soft.parquet")
    assert (tmp_path / "soft.parquet").read_bytes() == undisturbed
    assert (tmp_path / "k.jsonl").read_bytes() == (tmp_path / "u.jsonl").read_bytes()


def test_every_command_takes_them(cli, tiny_folder, prompts, tmp_path):
    soft, hard, subset = tmp_path / "soft.parquet", tmp_path / "hard.parquet", tmp_path / "s.parquet"
    model = ["--model", tiny_folder]
    code, out, err = cli("collect", prompts, *model, "--device", "cpu", "--dtype", "float32", "-n", 8, "--json",
                         "--out", tmp_path / "a.jsonl", "--soft-counts", soft)  # fmt: skip
    assert (code, json.loads(out)["soft_counts"]) == (0, str(soft)), err
    code, out, _ = cli("inspect", soft, "--json")
    assert (code, json.loads(out)["kind"]) == (0, "soft-frequency-table")
    code, _, err = cli("build-vocab", soft, *model, "--k", 120, "--out", subset)
    assert code == 0, err
    code, out, err = cli("coverage", subset, "--on", soft, "--mass", "--json", *model)
    assert code == 0, err
    row = json.loads(out)["rows"][0]
    assert 0.5 < row["coverage"] < 1
    code, _, err = cli("merge", soft, soft, "--out", tmp_path / "both.parquet")
    assert code == 0, err
    both = FrequencyTable.read(tmp_path / "both.parquet")
    assert both.metadata["kind"] == "soft"
    assert (both.totals() == 2 * FrequencyTable.read(soft).totals()).all()
    code, _, err = cli(
        "count-freq", tmp_path / "a.jsonl", "--tokenizer", tiny_folder, "--assistant-only", "--out", hard
    )
    assert code == 0, err
    for command in (["merge", soft, hard], ["build-vocab", soft, hard, "--k", 120, *model]):
        code, _, err = cli(*command, "--out", tmp_path / "none.parquet")
        assert code == 1
        assert "they do not add up" in " ".join(err.split())
    code, _, err = cli("build-vocab", soft, hard, "--mix", "soft=1", "--mix", "hard=1", "--k", 120, *model,
                       "--out", tmp_path / "mixed.parquet")  # fmt: skip
    assert code == 0, err


def test_merging_keeps_soft_tables_soft(target, prompts, tmp_path):
    for name in "xy":
        collect(target, prompts, tmp_path / f"{name}.jsonl", OPTIONS, soft_counts=tmp_path / f"{name}.parquet")
    tables = [FrequencyTable.read(tmp_path / f"{name}.parquet") for name in "xy"]
    assert merge(tables, ["x", "y"]).metadata["kind"] == "soft"


def test_recorded_answers_give_the_same_sums(target, prompts, tmp_path):
    collect(target, prompts, tmp_path / "a.jsonl", OPTIONS)
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    module.sum_over(target, read_answers(tmp_path / "a.jsonl", vocab_size=320)).write(tmp_path / "part.npz")
    with np.load(tmp_path / "part.npz") as part:
        found = np.bincount(part["cells"] & 0xFFFFFFFF, weights=part["sums"], minlength=320)
    expected = sum(mass.sum(0) for mass in direct(target, records, 256).values())
    assert found == pytest.approx(expected, abs=1e-9)
