"""The target's last layer as the start of the draft's, with the sizes that it was measured to compute over a few answers.

A Gemma layer norms queries, keys and the outputs of attention and MLP, and its residual stream is a thousand times as
large as AdamW's steps suit. The draft's layer has no such norms, so they are folded into the projections beside them, at
the average size measured: a start, exact only on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import padded_pass

Tensors = dict[str, torch.Tensor]
_PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.down_proj")
_BEFORE_MLP = ("pre_feedforward_layernorm", "post_attention_layernorm")


def has_output_norms(target: Any) -> bool:
    """Whether the target's last layer norms the outputs of attention and MLP, as Gemma's does."""
    return hasattr(target.get_decoder().layers[-1], "post_feedforward_layernorm")


def has_qkv_bias(target: Any) -> bool:
    """Whether the target's last layer adds biases to queries, keys and values, as Qwen2's does."""
    return "self_attn.q_proj.bias" in target.get_decoder().layers[-1].state_dict()


@dataclass(frozen=True, eq=False)
class LastLayer:
    """The target's last layer and its activations.

    tensors: the layer's, by a Llama layer's names, float32, other norms folded in.
    final_norm: [H], the factor of the norm before the LM head.
    activations: float32 [n, ...] over the positions measured: the residual stream that enters the layer ("in"), its MLP
    ("middle") and the final norm ("out"), the output of the final norm ("last"), and the projections by name.
    """

    tensors: Tensors
    final_norm: torch.Tensor
    activations: Tensors

    @staticmethod
    def of(target: Any, answers: list[Answer]) -> LastLayer:
        """Reads the layer of the transformers causal LM `target`, and measures it over `answers`."""
        plus = 1.0 if target.config.get_text_config().model_type.startswith("gemma") else 0.0
        source = target.get_decoder().layers[-1].state_dict()
        tensors = {name: tensor.float() + plus * ("norm" in name) for name, tensor in source.items()}
        activations = _measure(target, answers)
        _fold(tensors, activations)
        return LastLayer(tensors, target.get_decoder().norm.weight.detach().float() + plus, activations)

    def size(self, name: str) -> torch.Tensor:
        """The root mean square of the activations `name`, averaged over positions; a scalar."""
        return self.activations[name].square().mean(-1).sqrt().mean()


def _fold(tensors: Tensors, activations: Tensors) -> None:
    """Folds the norms of queries, keys and outputs into the projections before them, in place."""
    for part in "qk":
        norm, name = tensors.get(f"self_attn.{part}_norm.weight"), f"self_attn.{part}_proj"
        if norm is not None and len(tensors[f"{name}.weight"]) % len(norm) == 0:
            heads = activations[name].unflatten(-1, (-1, len(norm)))
            gain = (norm / heads.square().mean(-1).sqrt().mean(0)[:, None]).flatten()
            tensors[f"{name}.weight"] = tensors[f"{name}.weight"] * gain[:, None]
    if "post_feedforward_layernorm.weight" in tensors:
        outputs = ("self_attn.o_proj", "post_attention_layernorm"), ("mlp.down_proj", "post_feedforward_layernorm")
        for name, norm_name in outputs:
            gain = tensors[f"{norm_name}.weight"] / activations[name].square().mean(-1).sqrt().mean()
            tensors[f"{name}.weight"] = tensors[f"{name}.weight"] * gain[:, None]
        before = tensors.get("pre_feedforward_layernorm.weight")
        tensors["post_attention_layernorm.weight"] = torch.ones_like(gain) if before is None else before


def _measure(target: Any, answers: list[Answer]) -> Tensors:
    base, padded = target.get_decoder(), {}
    layer = base.layers[-1]

    def record(name: str, *, output: bool) -> Any:
        def keep(module: Any, inputs: Any, result: Any = None) -> None:
            padded[name] = result if output else inputs[0]

        return keep

    modules = dict(layer.named_modules())
    before_mlp = next((modules[name] for name in _BEFORE_MLP if name in modules), None)
    points = {"in": modules.get("input_layernorm"), "middle": before_mlp, "out": base.norm}
    inputs = {name: module for name, module in points.items() if module is not None}
    hooks = [modules[name].register_forward_hook(record(name, output=True)) for name in _PROJECTIONS if name in modules]
    hooks += [module.register_forward_pre_hook(record(name, output=False)) for name, module in inputs.items()]
    hooks += [base.norm.register_forward_hook(record("last", output=True))]
    try:
        _, mask = padded_pass(target, answers)
    finally:
        for hook in hooks:
            hook.remove()
    kept = mask.bool()
    kept[:, 0] = False  # an attention sink, many times as large as the others
    return {name: tensor.float()[kept] for name, tensor in padded.items()}
