"""Today's published kinds of heads: each is read as its makers mean it, or refused by the name of its kind."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from frspec_cli.errors import FrspecError, UsageError, as_fields
from frspec_cli.heads.checkpoint import load_head
from frspec_cli.heads.row_check import foreign_rows
from frspec_cli.models.lm_head import LmHead
from tests.heads.heads import EMBEDDING, IDS, INNER, TARGET, D, H, V, draw, eagle2, eagle3, run, write

SPECULATORS = {"speculators_model_type": "eagle3", "architectures": ["Eagle3Speculator"]}
FC_NORM = {f"fc_norm.{n}.weight": draw(H, seed=70 + n) + 1 for n in range(3)}


def load(folder, **changes):
    options = {"target_config": TARGET, "embedding_weight": EMBEDDING, "dtype": torch.float32} | changes
    return load_head(folder, **options)


# --- other kinds, by name


@pytest.mark.parametrize(
    ("names", "config", "kind"),
    [
        (["mask_hidden"], {}, "a P-EAGLE head"),
        ([], {"speculators_model_type": "peagle"}, "a P-EAGLE head"),
        ([], {"architectures": ["DFlashDraftModel"]}, "a DFlash head"),
        ([], {"architectures": ["DFlash2DraftModel"]}, "a DFlash-2 head"),
        ([], {"architectures": ["DSparkDraftModel"]}, "a DSpark head"),
        (["markov_head.markov_w1.weight", "markov_head.markov_w2.weight"], {}, "a DFlash-2 or DSpark head"),
        (["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"], {}, r"an EAGLE head with latent attention \(MLA\)"),
        (["layers.0.mlp.experts.0.up_proj.weight"], {}, "an EAGLE head with a mixture of experts"),
        (["hidden_norm.weight"], {}, "a DFlash head"),
        (["candidate_refiner.predecessor_codebook"], {}, "a DFlash-2 head"),
        (["refiner_head.down_h.weight"], {}, "an XPress head"),
        ([], {"speculators_model_type": "xpress"}, "an XPress head"),
        ([], {"architectures": ["DominoDraftModel"]}, "a Domino head"),
    ],
)
def test_relatives_with_an_fc_are_refused_by_their_name(tmp_path, names, config, kind):
    folder = write(tmp_path / "a", eagle3() | {name: torch.zeros(2, 2) for name in names}, config)
    with pytest.raises(FrspecError, match=f"this is {kind}; frspec runs EAGLE-1, 2, 3 and 3.1"):
        load(folder)


@pytest.mark.parametrize(
    ("names", "config", "kind"),
    [
        (["0.0.linear.weight", "0.1.weight"], {"medusa_num_heads": 4}, "a Medusa head"),
        (["0.0.linear.weight"], {}, "a Medusa head"),
        (["medusa_head.0.0.linear.weight"], {}, "a Medusa head"),
        (["hydra_head.0.0.linear.weight"], {}, "a Hydra head"),
        (["mtp_layers.0.input_proj.weight"], {}, r"a multi-token-prediction \(MTP\) module"),
        (["mtp.fc.weight", "mtp.layers.0.mlp.up_proj.weight"], {}, r"a multi-token-prediction \(MTP\) module"),
        (["model.layers.61.eh_proj.weight"], {}, r"a multi-token-prediction \(MTP\) module"),
        (["masked_embedding.centroids.weight"], {}, "a Gemma-4 assistant"),
        (["model.layers.0.mlp.up_proj.weight"], {"num_centroids": 2048}, "a Gemma-4 assistant"),
    ],
)
def test_drafters_of_other_kinds_are_refused_by_their_name(cli, tmp_path, names, config, kind):
    folder = write(tmp_path / "a", {name: torch.zeros(2, 2) for name in names}, config)
    with pytest.raises(FrspecError, match=f"this is {kind}; frspec runs EAGLE-1, 2, 3 and 3.1") as refusal:
        load(folder)
    assert ("draft mtp" in as_fields(refusal.value.hint or "")) is ("MTP" in kind)
    assert kind.replace("\\", "") in cli("inspect", folder)[1]


@pytest.mark.parametrize(("key", "kind"), [("medusa_num_heads", "a Medusa head"), ("hydra_num_heads", "a Hydra head")])
def test_a_kind_whose_weights_have_another_name_is_told_by_its_config(cli, tmp_path, key, kind):
    (tmp_path / "config.json").write_text(json.dumps({key: 4, "architectures": "Unlisted"}))
    torch.save({"0.0.linear.weight": torch.zeros(2, 2)}, tmp_path / "heads.pt")
    with pytest.raises(FrspecError, match=f"this is {kind}; frspec runs EAGLE-1, 2, 3 and 3.1"):
        load(tmp_path)
    code, _, err = cli("export-draft", tmp_path, "--to", "eagle", "--out", tmp_path / "out")
    assert (code, f"this is {kind}" in " ".join(err.split())) == (1, True)
    assert f"holds {kind}" in cli("inspect", tmp_path)[1]


def test_a_whole_model_is_no_drafter_of_another_kind(cli, tmp_path):
    names = ["model.layers.0.self_attn.kv_b_proj.weight", "model.layers.0.mlp.experts.0.up_proj.weight"]
    folder = write(tmp_path / "a", {name: torch.zeros(2, 2) for name in names})
    with pytest.raises(FrspecError, match=r"it lacks the tensor fc\.weight"):
        load(folder)
    assert "drafter" not in json.loads(cli("inspect", folder, "--json")[1])


# --- norm_output and norm_before_residual


@pytest.mark.parametrize(
    ("extra", "config", "override", "fed_back"),
    [
        ({}, {}, None, False),
        ({}, {"norm_output": False}, None, False),  # plain EAGLE-3, as SpecForge writes it now
        ({}, {"norm_output": True}, None, False),  # SpecForge's word for "there is a last norm"
        (FC_NORM, {"norm_output": True}, None, True),  # EAGLE-3.1
        (FC_NORM, {}, None, False),
        ({}, SPECULATORS | {"norm_output": True}, None, True),
        ({}, {"norm_output": True}, True, True),
        ({}, {}, True, True),
        (FC_NORM, {"norm_output": True}, False, False),
    ],
)
def test_norm_output_means_what_its_writer_meant(tmp_path, extra, config, override, fed_back):
    folder, said = write(tmp_path / "a", eagle3() | extra, config), []
    head = load(folder, norm_output=override, warn=said.append)
    assert head.config.norm_output is fed_back
    doubtful = not extra and config == {"norm_output": True} and override is None
    assert [("SpecForge" in each, "norm_output yes" in as_fields(each)) for each in said] == [(True, True)] * doubtful


def test_norm_output_is_a_word_of_eagle3(tmp_path):
    with pytest.raises(UsageError, match="is for EAGLE-3 heads"):
        load(write(tmp_path / "a", eagle2()), norm_output=True)


def test_norm_before_residual_counts_whoever_wrote_the_config(tmp_path):
    theirs = load(write(tmp_path / "a", eagle3(), SPECULATORS | {"norm_before_residual": True}))
    plain = load(write(tmp_path / "b", eagle3(), {"norm_before_residual": True}))
    assert plain.config.norm_before_residual
    assert torch.equal(run(plain), run(theirs))
    assert not torch.allclose(run(plain), run(load(write(tmp_path / "c", eagle3()))))


# --- windows


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({}, None),
        ({"layer_types": ["full_attention"], "sliding_window": 4}, None),
        ({"layer_types": ["sliding_attention"], "sliding_window": 4}, 4),
        (
            {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4},
            4,
        ),  # a copy of the target's list
        (SPECULATORS | {"transformer_layer_config": {"layer_types": ["sliding_attention"], "sliding_window": 4}}, 4),
        ({"sliding_window": 4, "use_sliding_window": False}, None),
    ],
)
def test_a_window_is_that_of_the_layers_type(tmp_path, config, window):
    said = []
    assert load(write(tmp_path / "a", eagle3(), config), warn=said.append).config.window == window
    assert not said


def test_windows_that_cannot_be_told_are_said_or_refused(tmp_path):
    said = []
    assert load(write(tmp_path / "a", eagle3(), {"sliding_window": 4}), warn=said.append).config.window is None
    assert "sliding_window 4 without layer_types" in said[0]
    for config, message in (
        ({"layer_types": ["sliding_attention"]}, "gives no sliding_window"),
        ({"layer_types": ["chunked_attention"]}, "a layer of the type chunked_attention"),
    ):
        with pytest.raises(FrspecError, match=message):
            load(write(tmp_path / "a", eagle3(), config))


# --- sizes


def test_an_empty_list_of_taps_means_the_default(tmp_path):
    assert load(write(tmp_path / "a", eagle3(), {"eagle_aux_hidden_state_layer_ids": []})).taps == (2, 4, 5)


def test_a_head_without_an_lm_head_over_the_whole_vocabulary_uses_the_targets(tmp_path):
    tensors = {name: tensor for name, tensor in eagle3().items() if name not in ("lm_head.weight", "d2t", "t2d")}
    head = load(write(tmp_path / "a", tensors, {"draft_vocab_size": V}))
    assert head.own_lm_head is None
    rows = tensors | {"lm_head.weight": EMBEDDING}
    torch.testing.assert_close(run(head), run(load(write(tmp_path / "b", rows))))  # run() takes the embedding's rows
    for config in ({"draft_vocab_size": D}, {"target_hidden_size": 2 * H}):
        wide = {"fc.weight": draw(H, 6 * H, seed=21)} if "target_hidden_size" in config else {}
        with pytest.raises(FrspecError, match=r"lacks the tensor lm_head\.weight"):
            load(write(tmp_path / "c", tensors | wide, config))


def test_a_head_smaller_than_its_target(tmp_path):
    target = SimpleNamespace(hidden_size=24, vocab_size=V, num_hidden_layers=8)
    own, theirs = draw(V, H, seed=80), draw(V, 24, seed=81)
    tensors = eagle3() | {"fc.weight": draw(H, 72, seed=21), "embed_tokens.weight": own}
    config = {"target_hidden_size": 24}
    head = load(write(tmp_path / "a", tensors, config), target_config=target, embedding_weight=theirs)
    states = draw(3, 1, 2, 24, seed=82)
    assert torch.equal(head.embedding_weight, own)
    torch.testing.assert_close(
        head.fuse(states[0], tuple(states)), torch.cat(tuple(states), -1) @ tensors["fc.weight"].T
    )
    with pytest.raises(FrspecError, match="its target_hidden_size is 24, the target's is 16"):
        load(write(tmp_path / "a", tensors, config))
    del tensors["embed_tokens.weight"]
    with pytest.raises(FrspecError, match=r"lacks the tensor embed_tokens\.weight of shape \[50, 16\]"):
        load(write(tmp_path / "b", tensors, config), target_config=target, embedding_weight=theirs)


def second_layer() -> dict[str, torch.Tensor]:
    shapes = {
        "self_attn.q_proj": (H, H),
        "self_attn.k_proj": (8, H),
        "self_attn.v_proj": (8, H),
        "self_attn.o_proj": (H, H),
    }
    shapes |= {"mlp.gate_proj": (INNER, H), "mlp.up_proj": (INNER, H), "mlp.down_proj": (H, INNER)}
    matrices = {f"layers.1.{name}.weight": draw(*shape, seed=90 + n) for n, (name, shape) in enumerate(shapes.items())}
    norms = ("input_layernorm", "post_attention_layernorm")
    return matrices | {f"layers.1.{name}.weight": draw(H, seed=98) + 1 for name in norms}


@pytest.mark.parametrize("tensors", [eagle2(), eagle3("layers.0.")])
def test_a_second_layer_is_a_plain_one_behind_the_first(tmp_path, tensors):
    one = load(write(tmp_path / "one", tensors))
    two = load(write(tmp_path / "two", tensors | second_layer()))
    assert two.config.layers == 2
    embedding, state, place = EMBEDDING[None, 3:4], draw(1, 1, H, seed=50), torch.zeros(1, 1, dtype=torch.int64)
    x = one(embedding, state, place, torch.zeros(1, 1, 1, 1))  # one position: attention gives back its value
    layer = two.layers[1]
    values = layer.input_layernorm(x) @ second_layer()["layers.1.self_attn.v_proj.weight"].T
    values = values.view(1, 1, 2, 4).repeat_interleave(2, 2).flatten(2)
    x = x + values @ second_layer()["layers.1.self_attn.o_proj.weight"].T
    x = x + layer.mlp(layer.post_attention_layernorm(x))
    torch.testing.assert_close(two(embedding, state, place, torch.zeros(1, 1, 1, 1)), x)


def test_rows_beyond_the_targets_are_padding(tmp_path):
    rows = draw(56, H, seed=23)
    whole = {name: tensor for name, tensor in eagle3().items() if name not in ("d2t", "t2d")}
    for config, extra in (({"vocab_size": V}, {}), ({"vocab_size": 56}, {"embed_tokens.weight": draw(56, H, seed=99)})):
        said: list[str] = []
        head = load(write(tmp_path / "a", whole | {"lm_head.weight": rows} | extra, config), warn=said.append)
        assert ["has 56 rows for a vocabulary of 50" in each for each in said] == [True]
        assert torch.equal(head.own_lm_head.weight, rows[:V])
        assert (head.config.vocab_size, head.embedding_weight.shape, head.own_lm_head.ids) == (V, (V, H), None)
    ids = torch.tensor([*IDS.tolist()[:11], 53])
    mask = torch.isin(torch.arange(56), ids)
    padded = eagle3() | {"d2t": ids - torch.arange(D), "t2d": mask}
    said = []
    head = load(write(tmp_path / "b", padded, {"vocab_size": 56}), warn=said.append)
    assert ["has 56 rows for a vocabulary of 50" in each for each in said] == [True]
    assert head.own_lm_head.ids.tolist() == IDS.tolist()[:11]
    assert load(write(tmp_path / "c", eagle2(), {"vocab_size": 56})).config.vocab_size == V


# --- rows of other tokens


def test_rows_of_other_tokens_are_told():
    target = LmHead(draw(200, 32, seed=1))
    ids = torch.arange(10, 90, 2)
    trained = target.weight[ids] + 0.05 * draw(40, 32, seed=2)
    assert foreign_rows(LmHead(trained, ids=ids), target, where="head") is None
    assert foreign_rows(LmHead(draw(40, 32, seed=3), ids=ids), target, where="head") is None  # trained from scratch
    assert foreign_rows(LmHead(draw(40, 8, seed=3), ids=ids), target, where="head") is None  # of another size
    offsets = ids - torch.arange(40)
    for rows in (offsets, ids + 1, torch.arange(40)):  # lm_head[d2t] with offsets; shifted by one; the first N rows
        said = foreign_rows(LmHead(target.weight[rows], ids=ids), target, where="head")
        assert said is not None
        assert "row 0 is the target's row of token" in said or "rows of its LM head" in said


def test_the_shipped_and_written_heads_are_read_as_before(tmp_path):
    head = load(write(tmp_path / "a", eagle3()))
    assert (head.config.layers, head.config.window, head.config.target_hidden_size) == (1, None, None)
    assert len(head.layers) == 1


# --- inspect


def test_inspect_prints_the_reading(cli, tmp_path):
    config = {
        "norm_output": True,
        "norm_before_residual": True,
        "layer_types": ["sliding_attention"],
        "sliding_window": 64,
    }
    config |= {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}}
    folder = write(tmp_path / "a", eagle3() | FC_NORM, config)
    out = cli("inspect", folder)[1]
    for line in (
        "layout: eagle3",
        "taps: hidden_states 2, 4, 5 (its config counts layers whose outputs are read, one less than in hidden_states)",
        "norm_output: yes",
        "norm_before_residual: yes",
        "window: 64",
        "lm_head: own, 12 rows",
        "d2t: offsets (row + d2t[row] is the token)",
        "embedding: the target's",
    ):
        assert line in out
    reading = json.loads(cli("inspect", write(tmp_path / "b", eagle3(), {"norm_output": True}), "--json")[1])["reading"]
    assert (reading["norm_output"], len(reading["notes"])) == (False, 1)
    peagle = write(tmp_path / "c", eagle3() | {"mask_hidden": torch.zeros(1, 2)})
    assert "problem: this is a P-EAGLE head; frspec runs EAGLE-1, 2, 3 and 3.1." in cli("inspect", peagle)[1]


# --- the command line


def test_the_option_and_the_warnings_reach_the_command(cli, tiny_folder, tmp_path):
    from tests.heads.test_in_the_engine import CONFIG as SIZES
    from tests.heads.test_in_the_engine import random_head

    tensors = random_head("eagle3")
    weight = load_file(tiny_folder / "model.safetensors")["lm_head.weight"]
    ids = tensors["d2t"] + torch.arange(len(tensors["d2t"]))
    tensors["lm_head.weight"] = weight[ids - 1]
    folder = write(tmp_path / "head", tensors, SIZES | {"norm_output": True})
    common = ["the fox", "--model", tiny_folder, "--draft", folder, "--method", "eagle", "--device", "cpu", "-n", 8]
    common += ["--dtype", "float64", "--json"]
    code, out, err = cli("generate", *common)
    said = " ".join(err.split())
    assert code == 0, err
    assert "are those of other tokens" in said
    assert "give --norm-output yes" in said
    code, forced, err = cli("generate", *common, "--norm-output", "yes")
    assert code == 0, err
    assert "SpecForge" not in err
    assert json.loads(forced)["token_ids"] == json.loads(out)["token_ids"]
    assert cli("generate", *common, "--norm-output", "maybe")[0] == 2
    plain = ["the fox", "--model", tiny_folder, "--method", "ar", "--norm-output", "yes"]
    assert "--norm-output has no effect on ar" in " ".join(cli("generate", *plain)[2].split())
