"""The target's own MTP module loads from its checkpoint, and drafts what transformers' own loop does."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

from frspec_cli.errors import FrspecError
from frspec_cli.heads.mtp import load_mtp
from frspec_cli.models.target import load_target
from tests.mtp import FAMILIES, STATED, save_mtp_target


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return save_mtp_target(tmp_path_factory.mktemp("mtp") / request.param, request.param)


def loaded(folder, dtype="float64"):
    return load_target(str(folder), device="cpu", dtype=dtype, hybrid=True)


def test_the_module_is_the_checkpoints(family) -> None:
    target = loaded(family)
    head, stored = load_mtp(target), load_file(family / "model.safetensors")
    prefix = "model.layers.3." if "Glm" in family.name else "mtp."
    block = prefix if "Glm" in family.name else "mtp.layers.0."
    ours = head.mtp.layers[0].state_dict()
    of = {"eh_proj": "fc", "enorm": "pre_fc_norm_embedding", "hnorm": "pre_fc_norm_hidden", "post_norm": "norm"}
    for name, qwens in of.items():
        theirs = ("shared_head.norm" if name == "post_norm" else name) if "Glm" in family.name else qwens
        assert torch.equal(ours[f"{name}.weight"], stored[f"{prefix}{theirs}.weight"].double())
    queries = "self_attn.q_proj.weight"
    assert torch.equal(ours[f"mtp_block.{queries}"], stored[block + queries].double())
    if "Qwen3_5" not in family.name:
        experts = ours["mtp_block.mlp.experts.gate_up_proj"]
        parts = [stored[f"{block}mlp.experts.2.{name}_proj.weight"].double() for name in ("gate", "up")]
        assert torch.equal(experts[2], torch.cat(parts))
    assert head.mtp.embed_tokens is target.model.get_input_embeddings()
    assert head.own_lm_head is None
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_a_step_is_transformers_own(family) -> None:
    """Over a whole text at once, with transformers' masks, positions and cache on the other side."""
    target = loaded(family)
    head = load_mtp(target)
    ids = torch.randint(1, 320, (1, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        states = target.model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        cache = MtpCache(config=target.model.config.get_mtp_config())
        positions = torch.arange(1, 12)[None]
        theirs = MtpModel.from_pretrained(target.model).forward_layer(0, states, positions, cache, input_ids=ids[:, 1:])
        seen = torch.ones(11, 11).tril().triu(1 - FAMILIES[family.name].get("sliding_window", 11)).bool()
        mask = torch.zeros(11, 11, dtype=states.dtype).masked_fill(~seen, torch.finfo(states.dtype).min)[None, None]
        ours = head(head.embed(ids[:, 1:]), head.fuse(states), positions - 1, mask)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    assert torch.equal(head.lm_input(ours), ours)
    with torch.no_grad():
        other = load_mtp(target, norm_output=False)
        fed_back = other(other.embed(ids[:, 1:]), states, positions - 1, mask)
        assert torch.equal(other.lm_input(fed_back), ours)
    assert not torch.allclose(fed_back, ours)


def edited(folder, tmp_path, edit, **config):
    """A copy of a saved target with other tensors and config."""
    copy = shutil.copytree(folder, tmp_path / folder.name)
    tensors = edit(load_file(copy / "model.safetensors"))
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return copy


def refusal(folder) -> str:
    with pytest.raises(FrspecError) as caught:
        load_mtp(loaded(folder, "float32"))
    assert str(caught.value).count(". ") == 0
    return str(caught.value)


def of_module(name: str) -> bool:
    return name.startswith(("mtp.", "model.layers.3."))


def test_a_checkpoint_saved_without_its_module(family, tmp_path) -> None:
    said = refusal(
        edited(family, tmp_path, lambda all: {name: each for name, each in all.items() if not of_module(name)})
    )
    expected = (
        "has no MTP module in its checkpoint" if family.name in STATED else "has no MTP module that transformers knows"
    )
    assert expected in said


def test_a_module_without_one_of_its_tensors(family, tmp_path) -> None:
    name = "model.layers.3.self_attn.o_proj.weight" if "Glm" in family.name else "mtp.layers.0.self_attn.o_proj.weight"
    said = refusal(edited(family, tmp_path, lambda all: {each: all[each] for each in all if each != name}))
    assert "has an MTP module that transformers cannot load" in said
    assert "layers.0.mtp_block.self_attn.o_proj.weight" in said


def test_numbers_that_are_not_finite(family, tmp_path) -> None:
    def spoil(tensors):
        name = next(name for name in tensors if of_module(name) and name.endswith("v_proj.weight"))
        tensors[name][0, 0] = float("nan")
        return tensors

    assert "has NaN or infinity in its MTP module's 0.mtp_block.self_attn.v_proj.weight" in refusal(
        edited(family, tmp_path, spoil)
    )


def test_a_family_without_modules(tiny_folder) -> None:
    assert "(family llama) has no MTP module that transformers knows: its config states no `num_mtp_layers`" in refusal(
        tiny_folder
    )


def test_modules_that_the_config_does_not_state(tmp_path) -> None:
    folder = save_mtp_target(tmp_path / "glm", "Glm4Moe", modules=2)
    said = refusal(edited(folder, tmp_path / "copy", lambda all: all, num_nextn_predict_layers=1))
    assert "states 1 MTP modules in its config, and its checkpoint holds those of layers 3, 4" in said


def test_a_norm_of_another_kind(tmp_path) -> None:
    """transformers takes the first norm of the model's last layer, which in a layer of linear attention is a gated one."""
    layers = {"layer_types": ["full_attention", "linear_attention"]}
    folder = save_mtp_target(tmp_path / "odd", "Qwen3_5Text")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | layers))
    said = refusal(folder)
    assert "Qwen3_5RMSNormGated" in said or "cannot load" in said


def test_rows_of_its_own_are_told_from_copies(family, tmp_path) -> None:
    name = "model.layers.3.embed_tokens.weight" if "Glm" in family.name else "mtp.embed_tokens.weight"
    copied = edited(family, tmp_path / "copy", lambda all: all | {name: all["model.embed_tokens.weight"].clone()})
    load_mtp(loaded(copied))
    said = refusal(edited(family, tmp_path / "own", lambda all: all | {name: all["model.embed_tokens.weight"] * 2}))
    assert (
        f"has an MTP module with rows of its own ({name}), which transformers cannot load beside the target's" in said
    )


def test_a_head_of_its_own_is_refused(tmp_path) -> None:
    folder, name = save_mtp_target(tmp_path / "glm", "Glm4Moe"), "model.layers.3.shared_head.head.weight"
    load_mtp(loaded(edited(folder, tmp_path / "copy", lambda all: all | {name: all["lm_head.weight"].clone()})))
    assert name in refusal(edited(folder, tmp_path / "own", lambda all: all | {name: -all["lm_head.weight"]}))


def test_families_that_frspec_cannot_run_are_named(tmp_path) -> None:
    """DeepSeek-V3 (transformers has its module) by its cache, MiMo-V2-Flash (it has none) by its sinks: before any weights."""
    small = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "eos_token_id": 0}
    for family, said in (
        ("DeepseekV3", "is of the family deepseek_v3, whose latent attention (MLA) frspec's cache cannot hold."),
        (
            "MiMoV2Flash",
            "is of the family mimo_v2_flash, whose attention has sinks or something else that frspec's lacks.",
        ),
    ):
        getattr(transformers, f"{family}Config")(**small).save_pretrained(tmp_path / family)
        with pytest.raises(FrspecError) as caught:
            loaded(tmp_path / family)
        assert str(caught.value).endswith(said)


def test_a_family_whose_modules_transformers_does_not_know(tmp_path) -> None:
    """EXAONE-MoE's checkpoints have them (`mtp.`); its config in transformers 5.23 does not."""
    folder, plain = tmp_path / "exaone", save_mtp_target(tmp_path / "like", "Qwen3_5Text")
    config = transformers.ExaoneMoeConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_experts=4,
        num_key_value_heads=2, moe_intermediate_size=16, num_experts_per_tok=2, n_group=1, topk_group=1, head_dim=8,
        max_position_embeddings=128, eos_token_id=0,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(plain / name, folder / name)
    stored = load_file(folder / "model.safetensors") | {"mtp.layers.0.enorm.weight": torch.ones(32)}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    assert "(family exaone_moe) has no MTP module that transformers knows: its config states no `num_mtp_layers`" in (
        refusal(folder)
    )
