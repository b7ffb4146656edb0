"""Parts for benchmarks of a tiny model: prompts, its answers, a head that drafts a little, and a subset."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from frspec_cli.drafting.checkpoint import save_head
from frspec_cli.drafting.config import head_config_for
from frspec_cli.frequency.corpus_table import tokenizer_record
from frspec_cli.frequency.table import FOLDS, FrequencyTable
from frspec_cli.models.target import load_target
from frspec_cli.tokens.tokenizer import load_tokenizer
from frspec_cli.training.answers import read_answers
from frspec_cli.training.start import start_head

TEXTS = ["the fox", "a hen", "one by one", "def count", "by night", "the lazy dog", "ships", "away from"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tiny_folder):
    """Prompts, recorded answers, a head made of the target's last layer, and a table to cut subsets from."""
    from tests.tiny import run_cli

    made = tmp_path_factory.mktemp("replay")
    lines = [{"id": f"p{i}", "category": "ab"[i % 2], "prompt": text} for i, text in enumerate(TEXTS)]
    (made / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = ["--model", tiny_folder, "--device", "cpu", "--dtype", "float64"]
    code, _, err = run_cli("collect", made / "prompts.jsonl", *model, "-n", 40, "--out", made / "answers.jsonl")
    assert code == 0, err
    target = load_target(str(tiny_folder), device="cpu", dtype="float32")
    answers = read_answers(made / "answers.jsonl", vocab_size=320)
    config = head_config_for(target.config, taps=(1, 2))
    generator = torch.Generator().manual_seed(0)
    head = start_head(target.model, config, answers, generator=generator, device="cpu")
    save_head(head, made / "head", card="", dtype=torch.float32)
    tokenizer = load_tokenizer(str(tiny_folder))
    counts = np.zeros((FOLDS, tokenizer.highest_id + 1), dtype=np.int64)
    counts[0] = 1
    for answer in answers:
        np.add.at(counts[0], answer.ids[answer.prompt_length :], 1)
    record = {"tokenizer": tokenizer_record(tokenizer)}
    FrequencyTable({"answers": counts}, record).write(made / "counts.parquet")
    built = ["build-vocab", made / "counts.parquet", "--model", tiny_folder, "--k", 160, "--out", made / "s.parquet"]
    code, _, err = run_cli(*built)
    assert code == 0, err
    return made
