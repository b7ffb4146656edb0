"""What peers' layouts hold: EAGLE's own code, SGLang, speculators. Names and config change, weights do not."""

from __future__ import annotations

from typing import Any

import torch

from frspec_cli.errors import FrspecError, option
from frspec_cli.heads.config import HeadConfig
from frspec_cli.heads.layouts import ParsedHead, Tensors
from frspec_cli.heads.options import Peer
from frspec_cli.heads.reading import default_taps
from frspec_cli.subsets.formats.d2t import to_map

_KEPT = ("bos_token_id", "eos_token_id", "tokenizer_fingerprint")


def check_peer(config: HeadConfig, to: Peer, *, layers: int | None, where: str) -> None:
    """Raises `FrspecError` if the peer's code would compute something other than the head does.

    layers: the target's number of layers, if it is known.
    """
    if config.layout == "fused":
        raise FrspecError(
            f"{where} is a FrspecEagle head: it normalises embedding, feature, attention input and output, and those norms "
            f"depend on the data, so they cannot be folded into a layout that has none; {to} cannot run it.",
            hint="frspec itself runs it; its vocabulary subset goes to any engine with frspec export-vocab.",
        )
    if config.layout == "mtp":
        raise FrspecError(
            f"{where} is an MTP module that stands alone; {to} reads such a module only in the checkpoint of a family that has "
            "one.",
            hint="frspec itself runs it; its vocabulary subset goes to any engine with frspec export-vocab.",
        )
    if config.layout == "eagle2" and to == "speculators":
        raise FrspecError(
            f"{where} is an EAGLE-1/2 head, and speculators and vLLM's reader of it know EAGLE-3 heads only.",
            hint=f"Write it for eagle or sglang: {option('to')} eagle.",
        )
    if config.layout == "eagle3" and config.draft_vocab_size is None and to == "eagle":
        raise FrspecError(f"{where} has no LM head of its own, and EAGLE's own code would draft with a random one.")
    if to == "speculators":
        return
    special = {
        "norm_before_residual": config.norm_before_residual,
        "norm_output": config.norm_output,
        "q_norm": config.qk_norm,
        "input_norm": config.tap_norm == "joint",
        "fc_norm": config.tap_norm == "each" and to == "eagle",
        "o_proj.bias": config.o_bias,
        "bias of q_proj": config.qkv_bias and config.layout == "eagle3" and to == "eagle",
        "a second layer": config.layers > 1,
        "sliding attention": config.window is not None,
    }
    for name in (name for name, present in special.items() if present):
        raise FrspecError(
            f"{where} has {name}, which {to}'s code leaves out.",
            hint=f"Write it for speculators: {option('to')} speculators.",
        )
    if to == "eagle":
        _refuse_for_eagle(config, layers=layers, where=where)


def _refuse_for_eagle(config: HeadConfig, *, layers: int | None, where: str) -> None:
    kind = config.rope["rope_type"]
    if kind != "default":
        raise FrspecError(f"{where} has RoPE of the type {kind}, which EAGLE's own code refuses to load.")
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        raise FrspecError(
            f"{where} has {config.num_attention_heads} heads of {config.head_dim}, but EAGLE's own code needs them to make "
            f"up the hidden size of {config.hidden_size}."
        )
    if config.taps and layers is not None and config.taps != default_taps(layers):
        raise FrspecError(
            f"{where} taps the hidden states {list(config.taps)}; EAGLE's own code always taps {list(default_taps(layers))}."
        )


def tensors_for(head: ParsedHead, to: Peer) -> Tensors:
    """The head's tensors under the peer's names, with embedding, LM head and vocabulary map if it has them."""
    layer = "midlayer." if head.config.layout == "eagle3" and to != "speculators" else "layers.0."
    renamed = {name.replace("layers.0.", layer, 1): tensor for name, tensor in head.tensors.items()}
    if head.embedding is not None:
        renamed["embed_tokens.weight"] = head.embedding
    if head.lm_head is not None:
        renamed["lm_head.weight"] = head.lm_head
    if head.config.layout == "eagle3" and head.lm_head is not None and (head.ids is not None or to != "speculators"):
        ids = torch.arange(len(head.lm_head)) if head.ids is None else head.ids
        d2t, t2d = to_map(ids.numpy(), head.config.vocab_size)
        renamed |= {"d2t": torch.from_numpy(d2t), "t2d": torch.from_numpy(t2d)}
    if to == "sglang" and head.config.layout == "eagle2" and not head.config.fc_bias:
        # SGLang gives fc a bias whatever the config says; without this tensor it stays random.
        renamed["fc.bias"] = torch.zeros(head.config.hidden_size, dtype=renamed["fc.weight"].dtype)
    return renamed


def config_for(head: ParsedHead, raw: dict[str, Any], to: Peer) -> dict[str, Any]:
    """The config.json that EAGLE's own code or SGLang reads.

    raw: the config.json that the head comes from, for the ids of special tokens.
    """
    config = head.config
    wide = config.layout == "eagle3"
    sglang = "LlamaForCausalLMEagle3" if wide else "LlamaForCausalLMEagle"
    values: dict[str, Any] = {
        "architectures": [sglang if to == "sglang" else "LlamaForCausalLM"],
        "model_type": "llama",
    }
    values |= _sizes(config) | {"rope_theta": config.rope["rope_theta"]}
    if config.rope["rope_type"] != "default":
        values["rope_scaling"] = {name: value for name, value in config.rope.items() if name != "rope_theta"}
    values |= {"qkv_bias": config.qkv_bias, "attention_bias": config.qkv_bias, "tie_word_embeddings": False}
    if wide:
        values["draft_vocab_size"] = config.draft_vocab_size
        if config.target_hidden_size is not None:
            values["target_hidden_size"] = config.target_hidden_size
        if config.taps:  # SGLang counts the layers whose outputs it reads, one less than `hidden_states`
            values["eagle_config"] = {
                "eagle_aux_hidden_state_layer_ids": [tap - 1 for tap in config.taps],
                "use_aux_hidden_state": True,
            }
        if config.tap_norm == "each":
            values["fc_norm"] = True
    else:
        values["bias"] = config.fc_bias or to == "sglang"  # EAGLE's code takes a missing key for true
    return values | _dtype(head) | {name: raw[name] for name in _KEPT if name in raw}


def speculators_config(head: ParsedHead, raw: dict[str, Any], target: str | None) -> dict[str, Any]:
    """The config.json that speculators reads. raw: as in `config_for`. target: the target's name, if it is known."""
    config = head.config
    before = raw.get("speculators_config") or {}
    verifier = dict(before.get("verifier") or {"name_or_path": None, "architectures": []})
    if target is not None:
        verifier["name_or_path"] = target
    greedy = {"proposal_type": "greedy", "speculative_tokens": 3, "verifier_accept_k": 1, "accept_tolerance": 0.0}
    rope = {name: value for name, value in config.rope.items() if name != "rope_theta"}
    layer = {"model_type": "qwen3" if config.qk_norm else "llama", **_sizes(config)}
    layer |= {"rope_theta": config.rope["rope_theta"], "rope_scaling": rope if rope["rope_type"] != "default" else None}
    layer |= {"attention_bias": config.qkv_bias, "tie_word_embeddings": False}
    if config.window is not None:
        layer |= {"layer_types": ["sliding_attention"] * config.layers, "sliding_window": config.window}
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "speculators_version": str(raw.get("speculators_version", "0.3.0")),
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": before.get("proposal_methods") or [greedy],
            "verifier": verifier,
        },
        "transformer_layer_config": layer,
        "draft_vocab_size": config.draft_vocab_size or config.vocab_size,
        "norm_before_residual": config.norm_before_residual,
        "norm_output": config.norm_output,
        "norm_before_fc": config.tap_norm == "joint",
        "fc_norm": config.tap_norm == "each",
        "eagle_aux_hidden_state_layer_ids": list(config.taps) or None,
        "target_hidden_size": config.target_hidden_size,
        "tie_word_embeddings": False,
        **_dtype(head),
        **{name: raw[name] for name in ("tokenizer_fingerprint",) if name in raw},
    }


def _sizes(config: HeadConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "hidden_act": config.hidden_act,
    }


def _dtype(head: ParsedHead) -> dict[str, str]:
    return {"torch_dtype": str(head.tensors["fc.weight"].dtype).removeprefix("torch.")}
