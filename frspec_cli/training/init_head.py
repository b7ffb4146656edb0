"""A head's first weights, taken from the target instead of from noise.

The draft's layer starts as the target's last layer. What that layer should be fed at position i + 1 is the target's
own residual stream there; the draft has the token i + 1 and the feature f_i. So `fc` starts as the ridge regression of
the last layer's input on those two, solved in closed form over a few thousand positions: the head drafts before its
first gradient step. EAGLE-3's `fc` sees no token; it starts as the regression of the residual stream on the taps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import target_states
from frspec_cli.heads.config import HeadConfig
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.training.init_layer import LastLayer, has_output_norms

MEASURED_ANSWERS = 8
_POSITIONS = 12_000  # about five times the unknowns per output
_RIDGE = 1e-3  # of the mean diagonal
_READERS, _WRITERS = 0.2, 0.3
"""Root mean squares of the matrices that read and that write the residual stream: those of a trained SmolLM2 head."""


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

    own_lm_head: EAGLE-3's, with first weights.
    If the target's last layer is not Llama-like, tensors that do not fit stay at their random start.
    """
    embedding = target.get_input_embeddings().weight.detach()
    head = EagleHead(config, embedding_weight=embedding.to(device, torch.float32), own_lm_head=own_lm_head).to(device)
    for parameter in head.parameters():
        if parameter.ndim == 2:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    last = LastLayer.of(target, answers[:MEASURED_ANSWERS])
    with torch.no_grad():
        match config.layout:
            case "eagle2":
                _start_eagle2(head, target, answers, last)
            case "eagle3":
                _start_eagle3(head, target, answers, last)
            case "mtp":
                _copy(head, last.tensors)
                head.norm.weight.copy_(last.final_norm)
                _fit_normed(head, target, answers)
            case _:
                _start_own(head, target, answers, last)
    return head


def _start_own(head: EagleHead, target: Any, answers: list[Answer], last: LastLayer) -> None:
    size = head.config.hidden_size
    _copy(head, last.tensors)
    weight = last.final_norm.to(head.embedding_weight.device)
    head.norm.weight.copy_(weight)
    # The residual stream is the post-norm state with the norm's weight divided out again; taps join by training.
    head.fuse_proj.weight.zero_()
    head.fuse_proj.weight[:, :size] = torch.diag(inverse(weight))
    if has_output_norms(target):
        # Weights of about 1: an optimizer's steps have one scale, and would undo small ones at once and never move large ones.
        head.fuse_proj.weight.mul_(weight.abs().mean())
        head.feature_norm.weight.copy_(weight / weight.abs().mean())
    _fit_normed(head, target, answers)


def _fit_normed(head: EagleHead, target: Any, answers: list[Answer]) -> None:
    """Starts `fc` over the normed embedding and feature: the stream that enters the target's last layer, by regression."""
    size, device = head.config.hidden_size, head.embedding_weight.device
    fit = Ridge(2 * size, size)
    for sample in _samples(target, answers, layers=(_layers(target) - 1,), device=device):
        features = head.feature_norm(head.fuse(sample.last, tuple(torch.ones_like(sample.last) for _ in head.taps)))
        embeddings = head.embedding_norm(head.embed(sample.ids))
        x = torch.cat((embeddings[sample.start + 1 :], features[sample.start : -1]), -1)
        fit.add(x, sample.hidden[0][sample.start + 1 :])
    head.fc.weight.copy_(fit.solve())
    if has_output_norms(target):
        _balance(head)


def _balance(head: EagleHead) -> None:
    """Sets the scales that norms leave free to those of a Llama-like layer: of the stream, and between a norm and its readers.

    Gemma's own are up to forty times larger or smaller, and one learning rate must suit all matrices.
    """
    layer, attention = head.layer, head.layer.self_attn
    writers = [part.weight for part in (head.fc, attention.o_proj, layer.mlp.down_proj)]
    _scale(writers, _WRITERS)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    layer.input_layernorm.weight.div_(_scale([part.weight for part in projections], _READERS))
    readers = [layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]
    layer.post_attention_layernorm.weight.div_(_scale(readers, _READERS))


def _scale(weights: list[torch.Tensor], size: float) -> float:
    """Multiplies all by one factor so that the geometric mean of their rms is `size`; returns the factor."""
    factor = size / math.exp(sum(math.log(float(rms(weight.flatten()))) for weight in weights) / len(weights))
    for weight in weights:
        weight.mul_(factor)
    return factor


def _start_eagle2(head: EagleHead, target: Any, answers: list[Answer], last: LastLayer) -> None:
    """EAGLE-2's layer has no norm before attention and none after: its stream is the post-norm state itself.

    So the target's residual stream r is carried as g r with g = norm weight / size of r, and the missing norms are folded,
    at their average size, into the matrices that read and write the stream.
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
    middle = last.activations["middle"]
    ratio = (rms(middle * gain) / rms(middle)).mean()
    tensors["post_attention_layernorm.weight"] = tensors["post_attention_layernorm.weight"] * back * ratio
    _copy(head, tensors)
    # Inputs of size 1 for the ridge; the sizes go into fc.
    sizes = torch.cat(
        (head.embedding_weight.square().mean().sqrt().expand(size), last.size("last").expand(size).to(device))
    )
    fit = Ridge(2 * size, size)
    for sample in _samples(target, answers, layers=(_layers(target) - 1,), device=device):
        x = torch.cat((head.embed(sample.ids)[sample.start + 1 :], sample.last[sample.start : -1]), -1)
        fit.add(x / sizes, sample.hidden[0][sample.start + 1 :])
    head.fc.weight.copy_(fit.solve().to(device) / sizes * gain.to(device)[:, None])


def _start_eagle3(head: EagleHead, target: Any, answers: list[Answer], last: LastLayer) -> None:
    """The feature is the residual stream at size 1; tokens enter through attention, whose half for them starts random."""
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
    for sample in _samples(target, answers, layers=head.taps, device=device):
        taps = torch.cat(sample.hidden, -1).to(device, torch.float32)
        if not len(sizes):
            parts = taps[sample.start :].unflatten(-1, (len(head.taps), size)).square().mean((0, 2)).sqrt()
            sizes = parts[:, None].expand(-1, size).flatten()
        fit.add(taps[sample.start :] / sizes, sample.last[sample.start :] * back)
    head.fc.weight.copy_(fit.solve().to(device) / sizes)


@dataclass(frozen=True, eq=False)
class _Sample:
    """The target's states over one answer of N ids.

    ids: int64 [N].
    last: float32 [N, H], post-norm.
    hidden: entries of `hidden_states`, each [N, H].
    start: the first position worth learning from.
    """

    ids: torch.Tensor
    last: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    start: int


def _samples(
    target: Any, answers: list[Answer], *, layers: tuple[int, ...], device: torch.device | str
) -> Iterator[_Sample]:
    """Samples from the first answers that have about 12,000 positions together; ids and last on `device`."""
    # Position 0, an attention sink, is not a sample.
    starts = [max(answer.prompt_length - 1, 1) for answer in answers]
    count = positions = 0
    while count < len(answers) and positions < _POSITIONS:
        positions += len(answers[count].ids) - starts[count] - 1
        count += 1
    for index, states in target_states(target, answers[:count], layers=layers, whole=True):
        ids, last = torch.from_numpy(answers[index].ids).to(device), states.last.to(device, torch.float32)
        yield _Sample(ids, last, states.taps, starts[index])


class Ridge:
    """argmin_W |W x - y|^2 + ridge |W|^2, from samples that come in parts."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self.gram = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.cross = torch.zeros(inputs, outputs, dtype=torch.float64)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """x [n, inputs], y [n, outputs]."""
        x, y = x.double().cpu(), y.double().cpu()
        self.gram += x.T @ x
        self.cross += x.T @ y

    def solve(self) -> torch.Tensor:
        """W, float32 [outputs, inputs]."""
        gram = self.gram + torch.eye(len(self.gram), dtype=torch.float64) * (self.gram.diagonal().mean() * _RIDGE)
        return torch.linalg.solve(gram, self.cross).T.float()


def _layers(target: Any) -> int:
    return target.config.get_text_config().num_hidden_layers


def _copy(head: EagleHead, tensors: dict[str, torch.Tensor]) -> None:
    for name, parameter in head.layer.named_parameters():
        tensor = tensors.get(name)
        if tensor is not None and tensor.shape == parameter.shape:
            parameter.copy_(tensor)


def inverse(weight: torch.Tensor) -> torch.Tensor:
    """1 / weight, except for the smallest, whose inverses would be mere noise."""
    smallest = weight.abs().mean() * 0.05
    return 1.0 / torch.where(weight.abs() < smallest, smallest, weight)


def rms(x: torch.Tensor) -> torch.Tensor:
    """Root mean squares over the last dimension."""
    return x.square().mean(-1).sqrt()
