"""Exported heads: the peers' names and configs, read back to the same drafts, sliced inside d2t, or refused with a reason."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from frspec_cli.errors import FrspecError
from frspec_cli.heads.checkpoint import load_head, save_head
from frspec_cli.heads.config import HeadConfig
from frspec_cli.heads.export import export_head
from frspec_cli.heads.head import EagleHead
from tests.heads.heads import EMBEDDING, IDS, TARGET, D, H, V, draw, eagle2, eagle3, run, write


def load(folder):
    return load_head(folder, target_config=TARGET, embedding_weight=EMBEDDING, dtype=torch.float32)


def contents(folder):
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


@pytest.mark.parametrize("to", ["eagle", "sglang", "speculators"])
def test_an_eagle3_head_drafts_the_same_in_every_layout(tmp_path, to):
    source = write(tmp_path / "head", eagle3(), {"rope_theta": 50000.0})
    written = export_head(source, to, tmp_path / "out", layers=8, target="owner/target")
    config, tensors = contents(tmp_path / "out")
    assert torch.equal(run(load(tmp_path / "out")), run(load(source)))
    assert tensors.keys() == eagle3("layers.0." if to == "speculators" else "midlayer.").keys()
    assert torch.equal(tensors["d2t"] + torch.arange(D), IDS)
    assert (written.k, config["draft_vocab_size"]) == (D, D)
    names = {"eagle": "LlamaForCausalLM", "sglang": "LlamaForCausalLMEagle3", "speculators": "Eagle3Speculator"}
    assert config["architectures"] == [names[to]]
    if to == "speculators":
        assert config["speculators_config"]["verifier"]["name_or_path"] == "owner/target"
        assert config["transformer_layer_config"]["vocab_size"] == V


def test_recorded_taps_go_over_in_the_readers_own_counting(tmp_path):
    source = write(tmp_path / "head", eagle3(), {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 2, 6]}})
    for to in ("sglang", "speculators"):
        export_head(source, to, tmp_path / to)
        assert load(tmp_path / to).taps == load(source).taps == (1, 3, 7)
    assert contents(tmp_path / "sglang")[0]["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [0, 2, 6]
    assert contents(tmp_path / "speculators")[0]["eagle_aux_hidden_state_layer_ids"] == [1, 3, 7]


def test_rows_in_another_order_are_sorted_for_a_reader_that_gathers_by_t2d(tmp_path):
    """Model-Optimizer and NeMo write d2t by frequency; speculators takes the target's rows in t2d's order."""
    order = torch.tensor([3, 0, 11, 1, 2, 10, 4, 9, 5, 8, 6, 7])
    tensors = eagle3()
    tensors |= {"lm_head.weight": tensors["lm_head.weight"][order], "d2t": IDS[order] - torch.arange(D)}
    source = write(tmp_path / "head", tensors)
    export_head(source, "speculators", tmp_path / "out")
    written = contents(tmp_path / "out")[1]
    assert torch.equal(written["d2t"] + torch.arange(D), written["t2d"].nonzero().flatten())
    assert torch.equal(written["lm_head.weight"], eagle3()["lm_head.weight"])
    export_head(source, "sglang", tmp_path / "kept")  # gathers by d2t
    assert torch.equal(contents(tmp_path / "kept")[1]["d2t"] + torch.arange(D), IDS[order])


def test_slicing_keeps_the_rows_of_the_subset_and_says_what_it_lacks(tmp_path):
    source = write(tmp_path / "head", eagle3())
    subset = torch.tensor([33, 5, 2, 49, 7])  # by rank; token 5 has no row
    written = export_head(source, "speculators", tmp_path / "out", subset=subset)
    assert written.k == 4
    assert written.warnings[0].startswith("1 of the subset's 5 tokens are left out")
    whole, sliced = load(source), load(tmp_path / "out")
    kept = [2, 7, 33, 49]
    assert sliced.own_lm_head.ids.tolist() == kept
    rows = [IDS.tolist().index(token) for token in kept]
    assert torch.equal(sliced.own_lm_head.weight, whole.own_lm_head.weight[rows])
    mask = contents(tmp_path / "out")[1]["t2d"]
    assert mask.nonzero().flatten().tolist() == kept
    with pytest.raises(FrspecError, match="has a row for none of the subset's 2 tokens"):
        export_head(source, "sglang", tmp_path / "none", subset=torch.tensor([1, 5]))
    with pytest.raises(FrspecError, match="the subset holds token 50"):
        export_head(source, "sglang", tmp_path / "none", subset=torch.tensor([2, 50]))
    assert not (tmp_path / "none").exists()


def test_an_eagle2_head_for_eagle_and_sglang(tmp_path):
    source = write(tmp_path / "head", eagle2(), {"rope_theta": 500000.0}, pickled=True)
    drafts = run(load(source))
    export_head(source, "eagle", tmp_path / "eagle")
    config, tensors = contents(tmp_path / "eagle")
    assert (config["bias"], config["rope_theta"]) == (False, 500000.0)
    assert tensors.keys() == eagle2().keys()
    export_head(source, "sglang", tmp_path / "sglang")
    config, tensors = contents(tmp_path / "sglang")
    assert config["architectures"] == ["LlamaForCausalLMEagle"]
    assert not tensors["fc.bias"].any()  # else SGLang's fc would keep a random one
    for to in ("eagle", "sglang"):
        torch.testing.assert_close(run(load(tmp_path / to)), drafts)
    with pytest.raises(FrspecError, match="know EAGLE-3 heads only"):
        export_head(source, "speculators", tmp_path / "out")
    with pytest.raises(FrspecError, match="nothing to slice"):
        export_head(source, "sglang", tmp_path / "out", subset=torch.tensor([1]))


def test_llama_3_rope_goes_where_it_is_understood(tmp_path):
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    source = write(tmp_path / "head", eagle3(), {"rope_scaling": {"rope_type": "llama3", **scaling}})
    with pytest.raises(FrspecError, match="RoPE of the type llama3, which EAGLE's own code refuses"):
        export_head(source, "eagle", tmp_path / "out")
    for to in ("sglang", "speculators"):
        export_head(source, to, tmp_path / to)
        assert load(tmp_path / to).config.rope == load(source).config.rope


@pytest.mark.parametrize(
    ("extra", "config", "to", "name"),
    [
        ({}, {"speculators_model_type": "eagle3", "norm_before_residual": True}, "sglang", "norm_before_residual"),
        ({}, {"speculators_model_type": "eagle3", "norm_output": True}, "eagle", "norm_output"),
        ({f"fc_norm.{n}.weight": torch.ones(H) for n in range(3)}, {}, "eagle", "fc_norm"),
        ({"input_norm.weight": torch.ones(3 * H)}, {}, "sglang", "input_norm"),
        ({f"midlayer.self_attn.{n}_norm.weight": torch.ones(4) for n in "qk"}, {}, "sglang", "q_norm"),
        ({}, {"eagle_aux_hidden_state_layer_ids": [1, 2, 3], "speculators_model_type": "x"}, "eagle", "always taps"),
    ],
)
def test_what_a_peer_cannot_compute_is_refused_by_name(tmp_path, extra, config, to, name):
    source = write(tmp_path / "head", eagle3() | extra, config)
    with pytest.raises(FrspecError, match=name):
        export_head(source, to, tmp_path / "out", layers=8)
    assert not (tmp_path / "out").exists()
    export_head(source, "speculators", tmp_path / "kept", layers=8)
    assert load(tmp_path / "kept").config == load(source).config
    assert torch.equal(run(load(tmp_path / "kept")), run(load(source)))


@pytest.fixture
def own(tmp_path):
    config = HeadConfig(
        layout="fused", hidden_size=H, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
        vocab_size=V, taps=(1, 3),
    )  # fmt: skip
    save_head(EagleHead(config, embedding_weight=draw(V, H, seed=1)), tmp_path / "own", card="", dtype=torch.float32)
    return tmp_path / "own"


def test_our_own_layout_is_refused_with_the_reason(cli, own, tmp_path):
    for to in ("eagle", "sglang", "speculators"):
        code, out, err = cli("export-draft", own, "--to", to, "--out", tmp_path / "out")
        assert (code, out) == (1, "")
        assert "those norms depend on the data, so they cannot be folded" in " ".join(err.split())


def test_the_command(cli, own, tmp_path):
    source = write(tmp_path / "head", eagle3())
    code, out, err = cli("export-draft", source, "--to", "speculators", "--out", tmp_path / "out", "--json")
    assert code == 0
    result = json.loads(out)
    assert set(result) == {"out", "format", "k", "sha256", "warnings"}
    assert (result["format"], result["k"]) == ("speculators", D)
    assert "records no taps" in result["warnings"][0]
    assert "warning: the head records no taps" in " ".join(err.split())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for more, code, said in (
        (["--to", "vllm"], 2, "--to vllm is not one of eagle, sglang, speculators."),
        (["--to", "eagle", "--k", "3"], 2, "--k takes a prefix of --vocab"),
        (
            ["--to", "eagle", "--out", str(tmp_path / "mine")],
            1,
            "exists and is not a folder that holds a draft head and",
        ),
        (["--to", "eagle", "--out", str(source)], 1, "is an input."),
        (["--to", "eagle", "--vocab", "none.parquet"], 1, "there is no file none.parquet."),
    ):
        options = [*more, "--out", str(tmp_path / "x")] if "--out" not in more else more
        exit_code, out, err = cli("export-draft", source, *options)
        assert (exit_code, out) == (code, "")
        assert said in " ".join(err.split())
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_the_targets_embedding_and_name_go_into_a_speculators_folder(cli, tiny_folder, tmp_path, monkeypatch):
    """speculators' loader takes uninitialised memory for an embedding that the file lacks, and looks a name up on the hub."""
    from tests.heads.test_in_the_engine import CONFIG as SIZES
    from tests.heads.test_in_the_engine import random_head

    source = write(tmp_path / "head", random_head("eagle3"), SIZES)
    monkeypatch.chdir(tiny_folder.parent)
    out = tmp_path / "out"
    code, _, err = cli("export-draft", source, "--to", "speculators", "--out", out, "--model", tiny_folder.name)
    assert code == 0, err
    config, tensors = contents(out)
    assert config["speculators_config"]["verifier"]["name_or_path"] == str(tiny_folder.resolve())
    theirs = load_file(tiny_folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(tensors["embed_tokens.weight"], theirs)
    said = " ".join(err.split())
    assert "with the target's embedding (0.0 MB)" in said
    assert "embed_tokens" not in said
    code, text, err = cli("export-draft", source, "--to", "speculators", "--out", tmp_path / "none", "--json")
    warnings = " ".join(json.loads(text)["warnings"])
    assert "no target is named, so the export names none" in warnings
    assert "has no embed_tokens.weight" in warnings
    assert "embed_tokens.weight" not in contents(tmp_path / "none")[1]
    unsafe = tmp_path / "unsafe"  # a target whose weights are a pickle, which is not opened for this
    unsafe.mkdir()
    (unsafe / "config.json").write_text((tiny_folder / "config.json").read_text())
    code, text, err = cli(
        "export-draft", source, "--to", "speculators", "--out", tmp_path / "p", "--json", "--model", unsafe
    )
    assert code == 0, err
    assert "The target's safetensors hold no tensor" in " ".join(json.loads(text)["warnings"])
    small = write(tmp_path / "small", eagle3())
    code, _, err = cli("export-draft", small, "--to", "speculators", "--out", tmp_path / "x", "--model", tiny_folder)
    assert (code, "is a draft head of another target" in " ".join(err.split())) == (1, True)


def test_windows_second_layers_and_smaller_heads_go_to_speculators_only(tmp_path):
    window = {"layer_types": ["sliding_attention"], "sliding_window": 3}
    source = write(tmp_path / "window", eagle3(), window)
    for to in ("eagle", "sglang"):
        with pytest.raises(FrspecError, match=f"has sliding attention, which {to}'s code leaves out"):
            export_head(source, to, tmp_path / "out")
    export_head(source, "speculators", tmp_path / "kept", layers=8)
    assert load(tmp_path / "kept").config == load(source).config
    wide = write(tmp_path / "wide", eagle3() | {"fc.weight": draw(H, 72, seed=21)}, {"target_hidden_size": 24})
    for to in ("eagle", "sglang", "speculators"):
        export_head(wide, to, tmp_path / to)
        assert contents(tmp_path / to)[0]["target_hidden_size"] == 24
    warnings = " ".join(export_head(wide, "speculators", tmp_path / "again").warnings)
    assert "speculators' own code runs heads of the target's hidden size only" in warnings
    whole = {name: tensor for name, tensor in eagle3().items() if name not in ("lm_head.weight", "d2t", "t2d")}
    with pytest.raises(FrspecError, match="has no LM head of its own"):
        export_head(write(tmp_path / "whole", whole), "eagle", tmp_path / "out")


def test_norm_output_can_be_said_for_an_export(tmp_path):
    source = write(tmp_path / "head", eagle3(), {"norm_output": True})
    read = export_head(source, "speculators", tmp_path / "read", layers=8)
    assert "SpecForge" in " ".join(read.warnings)
    export_head(source, "speculators", tmp_path / "said", layers=8, norm_output=True)
    fed_back = [contents(tmp_path / name)[0]["norm_output"] for name in ("read", "said")]
    assert fed_back == [False, True]
