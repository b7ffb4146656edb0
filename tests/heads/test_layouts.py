"""Heads as their makers write them: all load, and what is wrong is named by tensor, shape and expectation."""

from __future__ import annotations

import pytest
import torch

from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.heads.checkpoint import load_head
from frspec_cli.heads.config import LAYOUTS, HeadConfig, detect_layout, layout_named
from frspec_cli.heads.head import EagleHead
from tests.heads.heads import CONFIG, EMBEDDING, IDS, TARGET, D, H, V, draw, eagle2, eagle3, run, write


def load(folder, **changes) -> EagleHead:
    options = {"target_config": TARGET, "embedding_weight": EMBEDDING, "dtype": torch.float32} | changes
    return load_head(folder, **options)


@pytest.fixture
def usual2(tmp_path):
    return run(load(write(tmp_path / "usual2", eagle2())))


@pytest.fixture
def usual3(tmp_path):
    return run(load(write(tmp_path / "usual3", eagle3())))


# --- which layout


def test_a_layout_is_told_from_config_and_names():
    assert detect_layout(CONFIG, eagle2()) == "eagle2"
    assert detect_layout(CONFIG, [f"model.{name}" for name in eagle2()]) == "eagle2"
    assert detect_layout(CONFIG, eagle3()) == detect_layout(CONFIG, eagle3("layers.0.")) == "eagle3"
    assert detect_layout({"architectures": ["FrspecEagle"]}, []) == "fused"
    assert detect_layout({"architectures": ["FrspecMtp"]}, []) == "mtp"
    assert detect_layout(CONFIG, ["model.layers.0.mlp.up_proj.weight", "lm_head.weight"]) is None
    assert detect_layout({"architectures": None}, []) is None


def test_a_layout_has_one_name_and_old_ones_are_understood():
    assert [layout_named(name) for name in LAYOUTS] == list(LAYOUTS) == ["eagle2", "eagle3", "fused", "mtp"]
    assert (layout_named("frspec"), layout_named("eagle")) == ("fused", "eagle2")
    with pytest.raises(UsageError, match="layout medusa is not one of eagle2, eagle3, fused, mtp"):
        layout_named("medusa")


# --- EAGLE-1/2


def test_an_eagle2_head_loads_and_uses_the_targets_head(tmp_path):
    head = load(write(tmp_path / "a", eagle2() | {"embed_tokens.weight": EMBEDDING.half().float()}))
    assert (head.config.layout, head.taps, head.own_lm_head, head.config.fc_bias) == ("eagle2", (), None, False)
    assert head.config.rope == {"rope_theta": 10000.0, "rope_type": "default"}
    assert torch.equal(head.embedding_weight, EMBEDDING)  # the rounding of a dtype makes no embedding of its own


def test_pickled_sharded_and_prefixed_files_are_the_same_head(tmp_path, usual2):
    import json

    from safetensors.torch import save_file

    assert torch.equal(run(load(write(tmp_path / "bin", eagle2(), pickled=True))), usual2)
    prefixed = {f"model.{name}": tensor for name, tensor in eagle2().items()}
    assert torch.equal(run(load(write(tmp_path / "prefixed", prefixed))), usual2)
    folder = write(tmp_path / "shards", eagle2())
    (folder / "model.safetensors").unlink()
    names = sorted(eagle2())
    for part, held in (("a.safetensors", names[:4]), ("b.safetensors", names[4:])):
        save_file({name: eagle2()[name] for name in held}, folder / part)
    where = {name: "a.safetensors" if name in names[:4] else "b.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert torch.equal(run(load(folder)), usual2)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(FrspecError, match="expected a JSON object"):
        load(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"fc.weight": "../x"}}))
    with pytest.raises(FrspecError, match=r"names '\.\./x', which is not a file in its own folder"):
        load(folder)


def test_tensors_are_trusted_over_the_config(tmp_path, usual2):
    """Vicuna's heads have a bias and no key that says so; Qwen2's have biases on q, k and v."""
    bias = {"fc.bias": draw(H, seed=40)}
    assert not torch.allclose(run(load(write(tmp_path / "bias", eagle2() | bias, {"bias": False}))), usual2)
    assert torch.equal(run(load(write(tmp_path / "none", eagle2(), {"bias": True}))), usual2)
    qkv = {f"layers.0.self_attn.{name}_proj.bias": draw(16 if name == "q" else 8, seed=41) for name in "qkv"}
    head = load(write(tmp_path / "qkv", eagle2() | qkv))
    assert head.config.qkv_bias
    assert not torch.allclose(run(head), usual2)


def test_a_head_with_another_embedding_keeps_its_own(tmp_path, usual2):
    own = EMBEDDING.clone()
    own[4] += 0.1
    head = load(write(tmp_path / "own", eagle2() | {"embed_tokens.weight": own}))
    assert torch.equal(head.embedding_weight, own)
    assert not torch.allclose(run(head), usual2)


def test_rope_of_llama_3_is_read(tmp_path):
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    config = {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **scaling}}
    head = load(write(tmp_path / "a", eagle2(), config))
    assert head.config.rope == {"rope_theta": 500000.0, "rope_type": "llama3", **scaling}
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=H, num_attention_heads=4, max_position_embeddings=128, rope_parameters=head.config.rope)
    )
    torch.testing.assert_close(head.rotary.inverse_frequencies, theirs.inv_freq)


def test_stored_frequencies_must_be_the_configs(tmp_path, usual2):
    name = "layers.0.self_attn.rotary_emb.inv_freq"
    right = 1 / 10000 ** (torch.arange(0, 4, 2) / 4)
    assert torch.equal(run(load(write(tmp_path / "a", eagle2() | {name: right}))), usual2)
    with pytest.raises(FrspecError, match="inv_freq does not hold the frequencies of its config's RoPE"):
        load(write(tmp_path / "b", eagle2() | {name: right}, {"rope_theta": 500000.0}))


# --- EAGLE-3 and relatives


def test_an_eagle3_head_has_its_own_rows_and_knows_their_tokens(tmp_path):
    head = load(write(tmp_path / "a", eagle3()))
    assert (head.config.layout, head.taps, head.config.draft_vocab_size) == ("eagle3", (2, 4, 5), D)
    assert torch.equal(head.own_lm_head.ids, IDS)
    assert torch.equal(head.own_lm_head.to_token_ids(torch.tensor([0, 11])), torch.tensor([0, 49]))
    assert head.config.rope["rope_theta"] == 10000.0


def test_names_files_and_embeddings_of_others_are_the_same_head(tmp_path, usual3):
    variants = {
        "vllm": (eagle3("layers.0."), {"architectures": ["LlamaForCausalLMEagle3"]}),
        "specforge": (eagle3() | {"embed_tokens.weight": EMBEDDING}, {"norm_output": True}),
        "speculators": (
            eagle3("layers.0."),
            {
                "speculators_model_type": "eagle3",
                "architectures": ["Eagle3Speculator"],
                "transformer_layer_config": CONFIG,
            },
        ),
    }
    for name, (tensors, config) in variants.items():
        assert torch.equal(run(load(write(tmp_path / name, tensors, config))), usual3), name
    assert torch.equal(run(load(write(tmp_path / "bin", eagle3(), pickled=True))), usual3)


@pytest.mark.parametrize(
    ("config", "taps"),
    [
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}}, (2, 4, 5)),  # layers whose output is read
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 4, 5]}}, (2, 4, 5)),  # the default, as indices
        ({"eagle_aux_hidden_state_layer_ids": [2, 4, 5]}, (2, 4, 5)),
        ({"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}, (2, 4, 5)),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 2, 6]}}, (1, 3, 7)),
        ({"eagle_aux_hidden_state_layer_ids": [1, 3, 7], "speculators_model_type": "eagle3"}, (1, 3, 7)),
        ({}, (2, 4, 5)),
    ],
)
def test_both_ways_of_counting_taps(tmp_path, config, taps):
    assert load(write(tmp_path / "a", eagle3(), config)).taps == taps


def test_relatives_of_eagle3_compute_what_their_flags_say(tmp_path, usual3):
    """Against the formulas written out: one position, so attention gives back its value."""
    speculators = {"speculators_model_type": "eagle3"}
    tensors = eagle3("layers.0.")
    plain, before, output = (
        load(write(tmp_path / str(n), tensors, speculators | flags))
        for n, flags in enumerate(({}, {"norm_before_residual": True}, {"norm_output": True}))
    )
    embedding, state, place = EMBEDDING[None, 3:4], draw(1, 1, H, seed=50), torch.zeros(1, 1, dtype=torch.int64)
    mask = torch.zeros(1, 1, 1, 1)
    layer_, hidden = plain.layer, plain.layer.hidden_norm(state)
    values = torch.cat((layer_.input_layernorm(embedding), hidden), -1) @ tensors["layers.0.self_attn.v_proj.weight"].T
    values = values.view(1, 1, 2, 4).repeat_interleave(2, 2).flatten(2)
    attended = values @ tensors["layers.0.self_attn.o_proj.weight"].T
    torch.testing.assert_close(plain(embedding, state, place, mask), layer_.finish(state, attended))
    torch.testing.assert_close(before(embedding, state, place, mask), layer_.finish(hidden, attended))
    fed_back = output(embedding, state, place, mask)
    torch.testing.assert_close(fed_back, plain.norm(layer_.finish(state, attended)))
    assert output.lm_input(fed_back) is fed_back
    states = draw(3, 1, 1, H, seed=51)
    joint = load(write(tmp_path / "joint", tensors | {"input_norm.weight": draw(3 * H, seed=52)}, speculators))
    each = load(write(tmp_path / "each", tensors | {f"fc_norm.{n}.weight": draw(H, seed=53 + n) for n in range(3)}))
    normed = torch.nn.functional.rms_norm(torch.cat(tuple(states), -1), (3 * H,), draw(3 * H, seed=52), 1e-5)
    torch.testing.assert_close(joint.fuse(states[0], tuple(states)), normed @ tensors["fc.weight"].T)
    normed = torch.cat(
        [torch.nn.functional.rms_norm(s, (H,), draw(H, seed=53 + n), 1e-5) for n, s in enumerate(states)], -1
    )
    torch.testing.assert_close(each.fuse(states[0], tuple(states)), normed @ tensors["fc.weight"].T)
    qk = {f"layers.0.self_attn.{name}_norm.weight": draw(4, seed=60) + 1 for name in "qk"}
    assert not torch.allclose(run(load(write(tmp_path / "qk", tensors | qk))), usual3)


def test_a_full_vocabulary_needs_no_map(tmp_path):
    tensors = eagle3() | {"lm_head.weight": draw(V, H, seed=23)}
    del tensors["d2t"], tensors["t2d"]
    assert load(write(tmp_path / "a", tensors)).own_lm_head.ids is None
    zeros = {"d2t": torch.zeros(V, dtype=torch.int64), "t2d": torch.ones(V, dtype=torch.bool)}
    assert load(write(tmp_path / "b", tensors | zeros)).own_lm_head.ids is None


# --- what is wrong is named


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d2t": None}, r"lacks the tensor d2t of shape \[12\]: its LM head has 12 rows, the vocabulary 50"),
        ({"d2t": IDS}, "d2t names tokens from 0 to 60"),
        ({"d2t": IDS[:5]}, r"tensor d2t has shape \[5\], expected \[12\]"),
        ({"d2t": IDS - torch.arange(D) - (torch.arange(D) == 3).long()}, "disagree about 2 tokens, first token 6"),
        ({"t2d": torch.ones(V, dtype=torch.bool)}, "disagree about 38 tokens, first token 1"),
        ({"lm_head.weight": None}, "lacks the tensor lm_head.weight"),
        ({"lm_head.weight": torch.zeros(D, 8)}, r"lm_head.weight has shape \[12, 8\], expected \[rows, 16\]"),
        ({"fc.weight": torch.zeros(H, 2 * H)}, r"fc.weight reads 2 of them"),
        ({"norm.weight": None}, r"lacks the tensor norm.weight of shape \[16\]"),
        (
            {"midlayer.self_attn.q_proj.weight": torch.zeros(H, H)},
            r"q_proj.weight has shape \[16, 16\], expected \[16, 32\]",
        ),
        ({"midlayer.mlp.up_proj.weight": None}, r"lacks the tensor layers.0.mlp.up_proj.weight of shape \[24, 16\]"),
        ({"second.weight": torch.zeros(2, 3)}, r"unknown tensor second.weight of shape \[2, 3\]"),
        ({"embed_tokens.weight": torch.zeros(V, 8)}, r"embed_tokens.weight has shape \[50, 8\], expected \[50, 16\]"),
    ],
)
def test_wrong_tensors_of_an_eagle3_head(tmp_path, change, message):
    tensors = {name: tensor for name, tensor in (eagle3() | change).items() if tensor is not None}
    with pytest.raises(FrspecError, match=message):
        load(write(tmp_path / "a", tensors, {"eagle_aux_hidden_state_layer_ids": [2, 4, 5]}))


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({"fc.weight": None}, {}, "it lacks the tensor fc.weight"),
        ({}, {"vocab_size": 51}, "its vocab_size is 51, the target's is 50"),
        ({}, {"num_attention_heads": 3}, "q_proj has 16 rows and k_proj 8, expected 3 heads of 5"),
        ({}, {"num_attention_heads": None}, "no positive number num_attention_heads"),
        ({"layers.0.input_layernorm.weight": torch.ones(H)}, {}, "unknown tensor layers.0.input_layernorm.weight"),
        ({"fc.weight": torch.zeros(H, 3 * H)}, {}, r"fc.weight has shape \[16, 48\], expected \[16, 32\]"),
        (
            {"layers.1.mlp.up_proj.weight": torch.zeros(2, 3)},
            {},
            r"unknown tensor layers.1.mlp.up_proj.weight of shape \[2, 3\]",
        ),
        ({"embed_tokens.weight": torch.zeros(49, H)}, {}, "its vocab_size is 49, the target's is 50"),
    ],
)
def test_wrong_tensors_of_an_eagle2_head(tmp_path, tensors, config, message):
    remaining = {name: tensor for name, tensor in (eagle2() | tensors).items() if tensor is not None}
    with pytest.raises(FrspecError, match=message):
        load(write(tmp_path / "a", remaining, config))


class Evil:
    def __reduce__(self):
        return (print, ("code in a checkpoint ran",))


def test_pickled_code_is_never_run(tmp_path, capsys):
    folder = write(tmp_path / "a", eagle2(), pickled=True)
    torch.save(eagle2() | {"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(FrspecError, match=r"asks for more than plain data \(.*print.*\)\. Nothing in it was run"):
        load(folder)
    assert "ran" not in capsys.readouterr().out
    (folder / "pytorch_model.bin").write_bytes(b"no zip at all")
    with pytest.raises(FrspecError, match=r"pytorch_model\.bin"):
        load(folder)


def test_a_name_that_is_neither_folder_nor_on_the_hub(monkeypatch):
    with pytest.raises(FrspecError, match="there is no draft head at owner/no-such-head: it is not a folder, and"):
        load("owner/no-such-head")
    with pytest.raises(FrspecError, match="there is no draft head at none: it is not a folder"):
        load("none")


def test_the_hub_is_asked_for_safetensors_first(tmp_path, monkeypatch, usual2):
    requests = []

    def snapshot(name, patterns):
        requests.append(patterns)
        folder = tmp_path / "hub"
        return write(folder, eagle2(), pickled=True) if len(requests) > 1 else (folder.mkdir() or folder)

    monkeypatch.setattr("frspec_cli.heads.files.download_snapshot", snapshot)
    assert torch.equal(run(load("owner/name")), usual2)
    assert [any(".bin" in pattern for pattern in patterns) for patterns in requests] == [False, True]


# --- compiled


@pytest.mark.parametrize("layout", ["eagle2", "eagle3", "fused"])
def test_forward_compiles_whole(tmp_path, layout):
    if layout == "fused":
        config = HeadConfig(
            layout="fused", hidden_size=H, intermediate_size=24, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
            vocab_size=V, taps=(1, 3),
        )  # fmt: skip
        head = EagleHead(config, embedding_weight=EMBEDDING).requires_grad_(False).eval()
    else:
        head = load(write(tmp_path / "a", eagle2() if layout == "eagle2" else eagle3()))
    embeddings, features = draw(1, 5, H, seed=1), draw(1, 5, H, seed=2)
    mask = torch.full((5, 5), torch.finfo(torch.float32).min).triu(1)[None, None]
    arguments = (embeddings, features, torch.arange(5)[None], mask)
    compiled = torch.compile(head.forward, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), head(*arguments))
