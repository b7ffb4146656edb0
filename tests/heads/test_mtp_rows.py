"""`export-draft mtp --to safetensors`: the LM head's rows of a subset, exactly, with the ids that they are of."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from frspec_cli.counting.table import FOLDS, FrequencyTable
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.tokens.tokenizer import load_tokenizer
from tests.mtp import save_mtp_target


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(a GLM-4 MoE target, one of Qwen3.5, a subset of 128 tokens of both, by rank)."""
    from tests.tiny import run_cli

    folder = tmp_path_factory.mktemp("rows")
    targets = [save_mtp_target(folder / family, family) for family in ("Glm4Moe", "Qwen3_5Text")]
    counts = np.zeros((FOLDS, 320), dtype=np.int64)
    counts[0] = np.random.default_rng(5).permutation(320) + 1
    tokenizer = load_tokenizer(str(targets[0]))
    FrequencyTable({"text": counts}, {"tokenizer": tokenizer.record()}).write(folder / "counts.parquet")
    code, _, err = run_cli(
        "build-vocab", folder / "counts.parquet", "--model", targets[0], "--k", 100, "--multiple-of", 64, "--shards", 2,
        "--out", folder / "s.parquet",
    )  # fmt: skip
    assert code == 0, err
    return *targets, folder / "s.parquet"


def export(cli, *arguments):
    code, out, err = cli("export-draft", "mtp", "--to", "safetensors", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("number", [0, 1])
def test_rows_and_ids_are_the_targets(cli, made, tmp_path, number) -> None:
    target, subset = made[number], made[2]
    result = export(cli, "--model", target, "--vocab", subset, "--out", tmp_path / "rows")
    assert (result["k"], result["format"], result["warnings"]) == (128, "safetensors", [])
    written, stored = load_file(tmp_path / "rows" / "model.safetensors"), load_file(target / "model.safetensors")
    assert set(written) == {"mtp.draft_lm_head.weight", "draft_vocab_ids"}
    ids = written["draft_vocab_ids"]
    assert ids.dtype == torch.int64
    assert ids.tolist() == sorted(VocabularySubset.read(subset).token_ids.tolist())
    assert [int((ids < 160).sum()), int((ids >= 160).sum())] == [64, 64]  # two equal shards of 320 rows
    assert torch.equal(written["mtp.draft_lm_head.weight"], stored["lm_head.weight"][ids])
    config = json.loads((tmp_path / "rows" / "config.json").read_text())
    assert (config["draft_vocab_size"], config["vocab_size"], config["hidden_size"]) == (128, 320, 32)
    export(cli, "--model", target, "--vocab", subset, "--out", tmp_path / "rows")  # one of its own is replaced


def test_a_tied_head_is_the_embedding_and_127_rows_are_said(cli, made, tmp_path) -> None:
    target = shutil.copytree(made[0], tmp_path / "tied")
    tensors = load_file(target / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    (tmp_path / "ids.txt").write_text("".join(f"{index}\n" for index in range(3, 130)))
    result = export(cli, "--model", target, "--vocab", tmp_path / "ids.txt", "--out", tmp_path / "rows")
    assert "127 is not a multiple of 128, which packed INT4 heads need." in result["warnings"]
    written = load_file(tmp_path / "rows" / "model.safetensors")
    assert torch.equal(written["mtp.draft_lm_head.weight"], tensors["model.embed_tokens.weight"][3:130])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mtp", "--to", "eagle"], 2, "mtp is exported with --to safetensors, and nothing else is."),
        (["head", "--to", "safetensors"], 2, "mtp is exported with --to safetensors, and nothing else is."),
        (["mtp", "--to", "safetensors"], 2, "mtp needs --model, whose LM head it uses, and --vocab"),
        (["mtp", "--to", "safetensors", "--norm-output", "no"], 2, "has no effect on the rows of an LM head."),
    ],
)
def test_wrong_options_are_usage(cli, tmp_path, arguments, code, message) -> None:
    found, _, err = cli("export-draft", *arguments, "--out", tmp_path / "rows")
    assert found == code
    assert message in " ".join(err.split())


def test_a_model_without_a_module(cli, made, tiny_folder, tmp_path) -> None:
    code, _, err = cli(
        "export-draft", "mtp", "--to", "safetensors", "--model", tiny_folder, "--vocab", made[2], "--out", tmp_path / "r"
    )  # fmt: skip
    assert code == 1
    assert "has no MTP module in its checkpoint" in " ".join(err.split())
