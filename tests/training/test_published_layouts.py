"""`train-draft --layout eagle2 | eagle3`: heads that other engines run, trained, loaded, run and exported here."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from frspec_cli.heads.checkpoint import load_head
from frspec_cli.models.lm_head import LmHead
from frspec_cli.models.target import load_target
from frspec_cli.training.loss import draft_loss, own_rows
from tests.tiny import run_cli

K = 120
EAGLE2 = {
    "embed_tokens.weight", "fc.weight", "layers.0.self_attn.q_proj.weight", "layers.0.self_attn.k_proj.weight",
    "layers.0.self_attn.v_proj.weight", "layers.0.self_attn.o_proj.weight", "layers.0.mlp.gate_proj.weight",
    "layers.0.mlp.up_proj.weight", "layers.0.mlp.down_proj.weight", "layers.0.post_attention_layernorm.weight",
}  # fmt: skip
EAGLE3 = {name.replace("layers.0.", "midlayer.") for name in EAGLE2 - {"embed_tokens.weight"}} | {
    "midlayer.input_layernorm.weight", "midlayer.hidden_norm.weight", "norm.weight", "lm_head.weight", "d2t", "t2d",
}  # fmt: skip


@pytest.fixture(scope="module")
def subset(tiny_answers, tmp_path_factory):
    """FR-Spec's list of the most frequent answered tokens; not in the order of ids."""
    counts = Counter(
        token for line in tiny_answers.read_text().splitlines() for token in json.loads(line)["response_token_ids"]
    )
    path = tmp_path_factory.mktemp("subset") / "freq.pt"
    torch.save(sorted(range(320), key=lambda token: (-counts[token], token))[:K], path)
    return path


@pytest.fixture(scope="module", params=["eagle2", "eagle3"])
def trained(request, tiny_answers, tiny_folder, subset, tmp_path_factory):
    """(layout, the head's folder, its metrics)."""
    out = tmp_path_factory.mktemp(request.param) / "head"
    more = ["--vocab", subset] if request.param == "eagle3" else []
    code, _, err = run_cli(
        "train-draft", tiny_answers, "--model", tiny_folder, "--out", out, "--layout", request.param, *more,
        "--epochs", 30, "--batch-tokens", 128, "--steps", 3, "--learning-rate", 3e-3, "--device", "cpu",
        "--dtype", "float32", "--threads", 1,
    )  # fmt: skip
    assert code == 0, err
    lines = (out.with_name("head.training") / "metrics.jsonl").read_text().splitlines()
    return request.param, out, [json.loads(line) for line in lines]


def test_it_learns(trained):
    _, out, metrics = trained
    losses = np.array([line["loss"] for line in metrics if "loss" in line])
    assert losses.shape[1] == 3
    assert (losses[-5:].mean(0) < losses[:5].mean(0) - 0.3).all()
    card = (out / "README.md").read_text()
    assert "EAGLE-2's layout" in card or "EAGLE-3's layout" in card


def test_the_file_is_the_published_layout(trained, tiny_folder):
    layout, out, _ = trained
    tensors, config = load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())
    assert tensors.keys() == (EAGLE2 if layout == "eagle2" else EAGLE3)
    assert config["architectures"] == ["LlamaForCausalLM"]
    if layout == "eagle2":
        assert config["bias"] is False
    else:
        ids = torch.arange(K) + tensors["d2t"]
        assert torch.equal(tensors["t2d"].nonzero().flatten(), ids)
        assert (config["draft_vocab_size"], len(tensors["lm_head.weight"])) == (K, K)
    target = load_target(str(tiny_folder), device="cpu", dtype="float32")
    head = load_head(out, target_config=target.config, embedding_weight=target.embedding, dtype=torch.float32)
    assert head.config.layout == layout
    assert head.taps == (() if layout == "eagle2" else (2, 2, 1))


def test_the_engine_runs_it_and_its_exports_draft_the_same(cli, trained, tiny_folder, tmp_path):
    layout, out, _ = trained
    common = [
        "the fox jumps",
        "--model",
        tiny_folder,
        "--device",
        "cpu",
        "--dtype",
        "float64",
        "-n",
        32,
        "--json",
        "-q",
    ]
    plain = json.loads(cli("generate", *common, "--method", "ar")[1])
    drafted = json.loads(cli("generate", *common, "--draft", out, "--method", "eagle")[1])
    assert drafted["token_ids"] == plain["token_ids"]
    for peer in ("eagle", "sglang", "speculators")[: 2 if layout == "eagle2" else 3]:
        code, _, err = cli("export-draft", out, "--to", peer, "--out", tmp_path / peer, "--model", tiny_folder)
        assert code == 0, err
        again = json.loads(cli("generate", *common, "--draft", tmp_path / peer, "--method", "eagle")[1])
        assert (again["token_ids"], again["cycles"]) == (drafted["token_ids"], drafted["cycles"])
    exported, trained_ = load_file(tmp_path / "eagle" / "model.safetensors"), load_file(out / "model.safetensors")
    assert exported.keys() == trained_.keys()
    assert all(torch.equal(tensor, trained_[name]) for name, tensor in exported.items())


def test_a_slice_drafts_the_same_inside_its_subset(cli, trained, tiny_folder, tmp_path, subset):
    """Over all rows the slice's logits are the whole head's; subsets of other tokenizers, and unknown ones, are reported."""
    layout, out, _ = trained
    if layout == "eagle2":
        pytest.skip("an EAGLE-2 head has no rows to slice")
    torch.save(torch.load(subset)[:40], tmp_path / "some.pt")
    imported = tmp_path / "some.parquet"
    assert cli("import-vocab", tmp_path / "some.pt", "--tokenizer", tiny_folder, "--out", imported)[0] == 0
    options = ["export-draft", out, "--to", "eagle", "--vocab", imported]
    code, said, err = cli(*options, "--out", tmp_path / "slice", "--json")  # the head knows its tokenizer
    assert code == 0, err
    assert json.loads(said)["k"] == 40
    target = load_target(str(tiny_folder), device="cpu", dtype="float32")
    whole, sliced = (
        load_head(path, target_config=target.config, embedding_weight=target.embedding, dtype=torch.float32)
        for path in (out, tmp_path / "slice")
    )
    ids = sorted(torch.load(subset)[:40])
    assert sliced.own_lm_head.ids.tolist() == ids
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    logits = torch.full((5, 320), -torch.inf).index_copy_(
        1, whole.own_lm_head.ids, whole.own_lm_head(whole.lm_input(hidden))
    )
    assert torch.allclose(sliced.own_lm_head(sliced.lm_input(hidden)), logits[:, ids], atol=1e-6)
    common = ["the fox", "--model", tiny_folder, "--device", "cpu", "--dtype", "float64", "-n", 32, "--json", "-q"]
    runs = (["--draft", out, "--vocab", imported], ["--draft", tmp_path / "slice", "--method", "eagle"])
    inside, alone = (json.loads(cli("generate", *common, *run)[1]) for run in runs)
    assert (inside["token_ids"], inside["cycles"]) == (alone["token_ids"], alone["cycles"])

    config = json.loads((out / "config.json").read_text())
    for fingerprint, code, said in (
        ("0" * 64, 1, "was made for another tokenizer"),
        (None, 0, "does not record its tokenizer"),
    ):
        changed = shutil.copytree(out, tmp_path / f"other-{code}")
        (changed / "config.json").write_text(json.dumps(config | {"tokenizer_fingerprint": fingerprint}))
        found, _, err = cli("export-draft", changed, *options[2:], "--out", tmp_path / f"out-{code}")
        assert (found, said in " ".join(err.split())) == (code, True)
        assert (
            cli("export-draft", changed, *options[2:], "--out", tmp_path / f"m-{code}", "--model", tiny_folder)[0] == 0
        )


def test_a_warm_start_goes_on_from_it(cli, trained, tiny_answers, tiny_folder, subset, tmp_path):
    layout, out, _ = trained
    more = ["--vocab", subset] if layout == "eagle3" else []
    common = ["train-draft", tiny_answers, "--model", tiny_folder, "--layout", layout, "--init", out]
    common += ["--epochs", 1, "--device", "cpu", "--dtype", "float32", "--learning-rate", 0]
    code, _, err = cli(*common, *more, "--out", tmp_path / "head")
    assert code == 0, err
    before, after = load_file(out / "model.safetensors"), load_file(tmp_path / "head" / "model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    if layout == "eagle3":
        torch.save(list(range(7, 7 + K)), tmp_path / "other.pt")
        code, _, err = cli(*common, "--vocab", tmp_path / "other.pt", "--out", tmp_path / "second")
        assert code == 1
        assert "its LM head covers other tokens" in " ".join(err.split())


def test_what_the_draft_vocabulary_lacks_is_masked():
    """The teacher over the draft's tokens alone, renormalised; nothing where its best token is none of them (EAGLE-3)."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(2, 8, generator=generator), torch.randn(3, 8, generator=generator)
    rows = own_rows(LmHead(weight, ids=torch.tensor([2, 5, 9])), size=12)
    ids = torch.tensor([[5, 7, 9], [7, 5, 9]])
    probabilities = torch.tensor([[0.5, 0.3, 0.1], [0.5, 0.3, 0.2]])
    loss, agrees = draft_loss(hidden, rows, teacher_ids=ids, teacher_probabilities=probabilities)
    logs = (hidden[0] @ weight.T).log_softmax(-1)
    by_hand = -(0.5 * logs[1] + 0.1 * logs[2]) / 0.6
    assert torch.allclose(loss, torch.stack((by_hand, torch.zeros(()))), atol=1e-5)
    assert agrees.tolist() == [bool(logs.argmax() == 1), False]
