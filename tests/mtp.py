"""Tiny targets with an MTP module in their checkpoint, under the names that the published checkpoints use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.tiny import CHAT_TEMPLATE, tiny_tokenizer

_COMMON = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LINEAR = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Glm4Moe": {"n_routed_experts": 4, "first_k_dense_replace": 1, "num_hidden_layers": 3, "head_dim": 8, **_EXPERTS},
    "Qwen3Next": {"num_experts": 4, "shared_expert_intermediate_size": 16, **_EXPERTS, **_LINEAR},
    "Qwen3_5Text": _LINEAR,
    "Mellum": {
        "num_experts": 4,
        "num_hidden_layers": 3,
        "head_dim": 8,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "sliding_window": 6,
        **_EXPERTS,
    },
}
STATED = {"Glm4Moe": "full_attention", "Mellum": "sliding_attention"}
"""The modules' attention where the config states their number; elsewhere transformers is told, and it is full."""
HYBRIDS = ("Qwen3Next", "Qwen3_5Text")


def save_mtp_target(
    folder: Path,
    family: str,
    *,
    modules: int = 1,
    seed: int = 7,
    share: float = 0.4,
    noise: float = 0.02,
    **changes: Any,
) -> Path:
    """Saves a tiny target of a family, with a module that drafts a little, its tokenizer and chat template, in float32.

    The layers add little to the embedding, and the module reads the next token's embedding and a share of the state through
    a copy of the last layer: so some of its drafts are right, and some are not. Several modules differ by `noise`.
    """
    import transformers
    from transformers.modeling_layers import MtpModel

    settings = _COMMON | FAMILIES[family] | changes
    config = getattr(transformers, f"{family}Config")(**settings)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    model.get_input_embeddings().weight.normal_()
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "down_proj")):
            parameter.mul_(share)
    model.save_pretrained(folder)
    kinds = settings.get("mtp_layer_types") or [STATED.get(family, "full_attention")] * modules
    config.num_mtp_layers, config.mtp_layer_types = modules, kinds
    if family == "Mellum":
        config.mtp_mlp_layer_types = ["sparse"] * modules
    module = MtpModel(model, modules).eval().requires_grad_(False)
    for layer in module.layers:
        layer.mtp_block.load_state_dict(model.get_decoder().layers[-1].state_dict())
        layer.post_norm.load_state_dict(model.get_decoder().norm.state_dict())
        halves = torch.cat((torch.eye(32), 0.3 * torch.eye(32)), dim=1)
        layer.eh_proj.weight.copy_(halves + torch.randn(32, 64) * noise)
    _add_tensors(folder, _published(family, module, settings["num_hidden_layers"]))
    _complete(folder, family, modules)
    return folder


def _published(family: str, module: Any, layers: int) -> dict[str, torch.Tensor]:
    """The module's tensors under the names of the family's published checkpoints."""
    tensors: dict[str, torch.Tensor] = {}
    for number, layer in enumerate(module.layers):
        glm = family == "Glm4Moe"
        above = f"model.layers.{layers + number}." if glm else "mtp."
        block = above if glm else "mtp.layers.0."
        named = {
            "eh_proj" if glm else "fc": layer.eh_proj.weight,
            "enorm" if glm else "pre_fc_norm_embedding": layer.enorm.weight,
            "hnorm" if glm else "pre_fc_norm_hidden": layer.hnorm.weight,
            "shared_head.norm" if glm else "norm": layer.post_norm.weight,
        }
        tensors |= {f"{above}{name}.weight": tensor for name, tensor in named.items()}
        for name, tensor in layer.mtp_block.state_dict().items():
            if name == "mlp.experts.gate_up_proj":
                for expert, both in enumerate(tensor):
                    gate, up = both.chunk(2)
                    tensors[f"{block}mlp.experts.{expert}.gate_proj.weight"] = gate
                    tensors[f"{block}mlp.experts.{expert}.up_proj.weight"] = up
            elif name == "mlp.experts.down_proj":
                for expert, down in enumerate(tensor):
                    tensors[f"{block}mlp.experts.{expert}.down_proj.weight"] = down
            else:
                tensors[block + name] = tensor
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def _add_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = folder / "model.safetensors"
    stored = load_file(path)
    assert not set(stored) & set(tensors)
    save_file(stored | tensors, path, metadata={"format": "pt"})


def _complete(folder: Path, family: str, modules: int) -> None:
    """The config as published (Qwen states its modules in words that transformers does not read), and the tokenizer."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if family in STATED:
        config["num_nextn_predict_layers"] = modules
        config.pop("num_mtp_layers", None)
    else:
        assert "num_mtp_layers" not in config
        config["mtp_num_hidden_layers"] = modules
    path.write_text(json.dumps(config))
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
