"""A head's first weights, taken from the target instead of from noise.

The draft's layer starts as the target's last layer. What that layer should be fed at position i + 1 is the target's
own residual stream there; the draft has the token i + 1 and the feature f_i. So `fc` starts as the ridge regression of
the last layer's input on those two, solved in closed form over a few thousand positions: the head drafts before its
first gradient step. EAGLE-3's `fc` sees no token; it starts as the regression of the residual stream on the taps.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from frspec_cli.answers.records import Answer
from frspec_cli.heads.config import HeadConfig
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.training.init_layer import LastLayer, has_output_norms
from frspec_cli.training.ridge import BATCH, Ridge, states

_READERS, _WRITERS = 0.2, 0.3
"""Root mean squares of what reads and what writes the residual stream: those of a trained SmolLM2 head."""


def start_head(
    target: Any,
    config: HeadConfig,
    answers: list[Answer],
    *,
    generator: torch.Generator,
    device: torch.device | str,
    own_lm_head: LmHead | None = None,
) -> EagleHead:
    """A float32 head for the transformers causal LM `target`, started from its last layer and `answers`.

    own_lm_head: EAGLE-3's, with first weights. Where the target's last layer is no Llama-like layer, tensors that do not
    fit stay at their random start.
    """
    embedding = target.get_input_embeddings().weight.detach()
    head = EagleHead(config, embedding_weight=embedding.to(device, torch.float32), own_lm_head=own_lm_head).to(device)
    for parameter in head.parameters():
        if parameter.ndim == 2:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    last = LastLayer.of(target, answers[:BATCH])
    with torch.no_grad():
        match config.layout:
            case "eagle2":
                _start_eagle2(head, target, answers, last)
            case "eagle3":
                _start_eagle3(head, target, answers, last)
            case _:
                _start_own(head, target, answers, last)
    return head


def _start_own(head: EagleHead, target: Any, answers: list[Answer], last: LastLayer) -> None:
    size, device = head.config.hidden_size, head.embedding_weight.device
    _copy(head, last.tensors)
    weight = last.final_norm.to(device)
    head.norm.weight.copy_(weight)
    # The residual stream is the post-norm state with the norm's weight divided out again; taps join by training.
    head.fuse_proj.weight.zero_()
    head.fuse_proj.weight[:, :size] = torch.diag(inverse(weight))
    if has_output_norms(target):
        # Weights of about 1, or an optimizer's steps, which know no scale, would undo some at once and never move others.
        head.fuse_proj.weight.mul_(weight.abs().mean())
        head.feature_norm.weight.copy_(weight / weight.abs().mean())
    fit = Ridge(2 * size, size)
    for seen in states(target, answers, device=device):
        features = head.feature_norm(head.fuse(seen.last, tuple(torch.ones_like(seen.last) for _ in head.taps)))
        embeddings = head.embedding_norm(head.embed(seen.ids))
        x = torch.cat((embeddings[seen.start + 1 :], features[seen.start : -1]), -1)
        fit.add(x, seen.hidden[-2][seen.start + 1 :])
    head.fc.weight.copy_(fit.solve())
    if has_output_norms(target):
        _balance(head)


def _balance(head: EagleHead) -> None:
    """Sets the scales that norms leave free, of the stream and between a norm and what reads it, to those of a Llama-like
    layer: Gemma's own are up to forty times larger or smaller, and one learning rate is to suit all matrices.
    """
    layer, attention = head.layer, head.layer.self_attn
    writers = [part.weight for part in (head.fc, attention.o_proj, layer.mlp.down_proj)]
    _scale(writers, _WRITERS)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    layer.input_layernorm.weight.div_(_scale([part.weight for part in projections], _READERS))
    readers = [layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]
    layer.post_attention_layernorm.weight.div_(_scale(readers, _READERS))


def _scale(weights: list[torch.Tensor], size: float) -> float:
    """Multiplies all by one factor, which is given back, so that the geometric mean of their rms is `size`."""
    factor = size / math.exp(sum(math.log(float(rms(weight.flatten()))) for weight in weights) / len(weights))
    for weight in weights:
        weight.mul_(factor)
    return factor


def _start_eagle2(head: EagleHead, target: Any, answers: list[Answer], last: LastLayer) -> None:
    """EAGLE-2's layer has no norm before attention and none after: its stream is the post-norm state itself.

    So the target's residual stream r is carried as g r with g = norm weight / size of r, and the norms that are missing are
    folded, at their average size, into what reads and writes the stream.
    """
    size, device = head.config.hidden_size, head.embedding_weight.device
    gain = last.final_norm / last.size("out")
    back = inverse(gain)
    tensors = dict(last.tensors)
    for name in "qkv":
        read = tensors["input_layernorm.weight"] * back / last.size("in")
        tensors[f"self_attn.{name}_proj.weight"] = tensors[f"self_attn.{name}_proj.weight"] * read
    for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
        tensors[name] = tensors[name] * gain[:, None]
    middle = last.seen["middle"]
    ratio = (rms(middle * gain) / rms(middle)).mean()
    tensors["post_attention_layernorm.weight"] = tensors["post_attention_layernorm.weight"] * back * ratio
    _copy(head, tensors)
    # Inputs of size 1 for the ridge; the sizes go into fc.
    sizes = torch.cat(
        (head.embedding_weight.square().mean().sqrt().expand(size), last.size("last").expand(size).to(device))
    )
    fit = Ridge(2 * size, size)
    for seen in states(target, answers, device=device):
        x = torch.cat((head.embed(seen.ids)[seen.start + 1 :], seen.last[seen.start : -1]), -1)
        fit.add(x / sizes, seen.hidden[-2][seen.start + 1 :])
    head.fc.weight.copy_(fit.solve().to(device) / sizes * gain.to(device)[:, None])


def _start_eagle3(head: EagleHead, target: Any, answers: list[Answer], last: LastLayer) -> None:
    """The feature stands for the residual stream at size 1; tokens come in by attention, whose half for them is random."""
    size, device = head.config.hidden_size, head.embedding_weight.device
    tensors = dict(last.tensors)
    for name in "qkv":
        key = f"self_attn.{name}_proj.weight"
        ours = dict(head.layer.named_parameters())[key]
        if tensors[key].shape == (ours.shape[0], size):
            tensors[key] = torch.cat((ours.detach()[:, :size], tensors[key].to(ours)), -1)
    for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
        tensors[name] = tensors[name] / last.size("out")
    tensors["hidden_norm.weight"] = tensors.pop("input_layernorm.weight")
    _copy(head, tensors)
    head.norm.weight.copy_(last.final_norm)
    back = inverse(last.final_norm).to(device)
    fit = Ridge(len(head.taps) * size, size)
    sizes = torch.zeros(0)
    for seen in states(target, answers, device=device):
        taps = torch.cat([seen.hidden[tap] for tap in head.taps], -1).to(device, torch.float32)
        if not len(sizes):
            parts = taps[seen.start :].unflatten(-1, (len(head.taps), size)).square().mean((0, 2)).sqrt()
            sizes = parts[:, None].expand(-1, size).flatten()
        fit.add(taps[seen.start :] / sizes, seen.last[seen.start :] * back)
    head.fc.weight.copy_(fit.solve().to(device) / sizes)


def _copy(head: EagleHead, tensors: dict[str, torch.Tensor]) -> None:
    for name, parameter in head.layer.named_parameters():
        tensor = tensors.get(name)
        if tensor is not None and tensor.shape == parameter.shape:
            parameter.copy_(tensor)


def inverse(weight: torch.Tensor) -> torch.Tensor:
    """1 / weight, but for the smallest, whose inverses would be all noise."""
    smallest = weight.abs().mean() * 0.05
    return 1.0 / torch.where(weight.abs() < smallest, smallest, weight)


def rms(x: torch.Tensor) -> torch.Tensor:
    """Root mean squares over the last dimension."""
    return x.square().mean(-1).sqrt()
