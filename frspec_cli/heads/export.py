"""A head in a peer's layout: EAGLE's own code, SGLang, speculators (which vLLM loads).

Names and config change, weights do not. An EAGLE-3 head can be sliced to a vocabulary subset, inside the tokens that it
has rows for: no other token can be given to it without training. What a peer cannot compute is refused with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from frspec_cli import storage
from frspec_cli.errors import FrspecError
from frspec_cli.heads.config import HeadConfig
from frspec_cli.heads.files import WEIGHTS, locate_head, read_config, read_tensors
from frspec_cli.heads.layouts import ParsedHead, Tensors, default_taps, parse_head
from frspec_cli.subsets.formats.d2t import to_map
from frspec_cli.tensor_files import write_safetensors

Peer = Literal["eagle", "sglang", "speculators"]
PEERS: tuple[Peer, ...] = get_args(Peer)
_KEPT = ("bos_token_id", "eos_token_id", "tokenizer_fingerprint")


@dataclass(frozen=True)
class ExportedHead:
    """k: rows of the head's own LM head, None where it uses the target's. sha256: of the weights' file."""

    k: int | None
    sha256: str
    warnings: tuple[str, ...]


def export_head(
    path: str | Path,
    to: Peer,
    out: Path,
    *,
    subset: torch.Tensor | None = None,
    layers: int | None = None,
    target: str | None = None,
) -> ExportedHead:
    """Writes the head at `path` to the folder `out` as `to` reads it.

    subset: int64 [K], target token ids to slice an EAGLE-3 head to. layers: the target's number of layers, target: its
    name, where they are known. Raises `FrspecError` for what the peer cannot run.
    """
    raw = read_config(locate_head(path))
    head = parse_head(raw, read_tensors(locate_head(path)), layers=layers, where=str(path))
    _refuse(head.config, to, layers=layers, where=str(path))
    warnings: list[str] = []
    if subset is not None:
        head = slice_head(head, subset, warnings, where=str(path))
    tensors = tensors_for(head, to)
    config = _speculators_config(head, raw, target) if to == "speculators" else config_for(head, raw, to)
    if head.config.layout == "eagle3" and not head.config.taps:
        warnings.append("the head records no taps: its reader takes the default (2, n // 2, n - 3).")
    with storage.atomic_folder(out) as temporary:
        write_safetensors(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        storage.write_json(temporary / "config.json", config)
        digest = storage.sha256_file(temporary / WEIGHTS)
    return ExportedHead(head.config.draft_vocab_size, digest, tuple(warnings))


def slice_head(head: ParsedHead, subset: torch.Tensor, warnings: list[str], *, where: str) -> ParsedHead:
    """The EAGLE-3 head with only the rows of `subset` (int64 [K] token ids) that it has, in ascending order.

    Adds to `warnings` how many tokens it has no row for. Raises `FrspecError` for heads without rows of their own.
    """
    if head.lm_head is None or head.config.layout != "eagle3":
        raise FrspecError(
            f"{where} has no LM head of its own, so there is nothing to slice: any subset fits it as it is.",
            hint="Give the engine the subset itself: frspec export-vocab SUBSET --to sglang.",
        )
    ids = torch.arange(len(head.lm_head)) if head.ids is None else head.ids
    subset = subset.to(torch.int64)
    if len(subset) and int(subset.max()) >= head.config.vocab_size:
        raise FrspecError(
            f"the subset holds token {int(subset.max())}, but {where} is for a vocabulary of {head.config.vocab_size}."
        )
    rows = torch.isin(ids, subset).nonzero().flatten()
    if not len(rows):
        raise FrspecError(f"{where} has a row for none of the subset's {len(subset)} tokens.")
    if len(rows) < len(subset):
        warnings.append(
            f"{len(subset) - len(rows):,} of the subset's {len(subset):,} tokens are left out: the head has no rows for "
            "them, and only training could give it some."
        )
    rows = rows[ids[rows].argsort()]
    config = replace(head.config, draft_vocab_size=len(rows))
    return replace(head, config=config, lm_head=head.lm_head[rows], ids=ids[rows])


def _refuse(config: HeadConfig, to: Peer, *, layers: int | None, where: str) -> None:
    """Raises where the peer's code would compute something else than the head does."""
    if config.layout == "fused":
        raise FrspecError(
            f"{where} is a FrspecEagle head: it normalises embedding, feature, attention input and output, and those norms "
            f"depend on the data, so they cannot be folded into a layout that has none; {to} cannot run it.",
            hint="frspec itself runs it; its vocabulary subset goes to any engine with frspec export-vocab.",
        )
    if config.layout == "eagle2" and to == "speculators":
        raise FrspecError(
            f"{where} is an EAGLE-1/2 head, and speculators and vLLM's reader of it know EAGLE-3 heads only.",
            hint="Write it --to eagle or --to sglang.",
        )
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
    }
    for name in (name for name, present in special.items() if present):
        raise FrspecError(f"{where} has {name}, which {to}'s code leaves out.", hint="Write it --to speculators.")
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
    """The head's tensors under the peer's names, with embedding, LM head and vocabulary map where it has them."""
    layer = "midlayer." if head.config.layout == "eagle3" and to != "speculators" else "layers.0."
    found = {name.replace("layers.0.", layer, 1): tensor for name, tensor in head.tensors.items()}
    if head.embedding is not None:
        found["embed_tokens.weight"] = head.embedding
    if head.lm_head is not None:
        found["lm_head.weight"] = head.lm_head
    if head.config.layout == "eagle3" and head.lm_head is not None and (head.ids is not None or to != "speculators"):
        ids = torch.arange(len(head.lm_head)) if head.ids is None else head.ids
        d2t, t2d = to_map(ids.numpy(), head.config.vocab_size)
        found |= {"d2t": torch.from_numpy(d2t), "t2d": torch.from_numpy(t2d)}
    if to == "sglang" and head.config.layout == "eagle2" and not head.config.fc_bias:
        # SGLang gives fc a bias whatever the config says; without this tensor it stays random.
        found["fc.bias"] = torch.zeros(head.config.hidden_size, dtype=found["fc.weight"].dtype)
    return found


def config_for(head: ParsedHead, raw: dict[str, Any], to: Peer) -> dict[str, Any]:
    """The config.json that EAGLE's own code or SGLang reads. raw: the one it comes from, for the ids of special tokens."""
    config = head.config
    wide = config.layout == "eagle3"
    sglang = "LlamaForCausalLMEagle3" if wide else "LlamaForCausalLMEagle"
    made: dict[str, Any] = {"architectures": [sglang if to == "sglang" else "LlamaForCausalLM"], "model_type": "llama"}
    made |= _sizes(config) | {"rope_theta": config.rope["rope_theta"]}
    if config.rope["rope_type"] != "default":
        made["rope_scaling"] = {name: value for name, value in config.rope.items() if name != "rope_theta"}
    made |= {"qkv_bias": config.qkv_bias, "attention_bias": config.qkv_bias, "tie_word_embeddings": False}
    if wide:
        made["draft_vocab_size"] = config.draft_vocab_size
        if config.taps:  # SGLang counts the layers whose outputs it reads, one less than `hidden_states`
            made["eagle_config"] = {
                "eagle_aux_hidden_state_layer_ids": [tap - 1 for tap in config.taps],
                "use_aux_hidden_state": True,
            }
        if config.tap_norm == "each":
            made["fc_norm"] = True
    else:
        made["bias"] = config.fc_bias or to == "sglang"  # EAGLE's code takes a missing key for true
    return made | _dtype(head) | {name: raw[name] for name in _KEPT if name in raw}


def _speculators_config(head: ParsedHead, raw: dict[str, Any], target: str | None) -> dict[str, Any]:
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
        "draft_vocab_size": config.draft_vocab_size,
        "norm_before_residual": config.norm_before_residual,
        "norm_output": config.norm_output,
        "norm_before_fc": config.tap_norm == "joint",
        "fc_norm": config.tap_norm == "each",
        "eagle_aux_hidden_state_layer_ids": list(config.taps) or None,
        "target_hidden_size": None,
        "tie_word_embeddings": False,
        **_dtype(head),
        **{name: raw[name] for name in ("tokenizer_fingerprint",) if name in raw},
    }


def _sizes(config: HeadConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": 1,
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
