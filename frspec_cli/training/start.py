"""A head's first weights, taken from the target instead of from noise.

The draft's layer starts as the target's last layer. What that layer should be fed at position i + 1 is the target's
own residual stream there; the draft has the token i + 1 and the feature f_i. So `fc` starts as the ridge regression of
the last layer's input on those two, solved in closed form over a few thousand positions: the head drafts before its
first gradient step.
"""

from __future__ import annotations

from typing import Any

import torch

from frspec_cli.drafting.config import HeadConfig
from frspec_cli.drafting.head import EagleHead
from frspec_cli.training.answers import Answer, pad_ids

_POSITIONS = 12_000  # about five times the unknowns per output
_RIDGE = 1e-3  # of the mean diagonal
_BATCH = 8  # answers in one pass of the target


def start_head(
    target: Any, config: HeadConfig, answers: list[Answer], *, generator: torch.Generator, device: torch.device | str
) -> EagleHead:
    """A float32 head (our layout) for the transformers causal LM `target`, started from its last layer and `answers`.

    Where the target's last layer is no Llama-like layer, tensors that do not fit stay at their random start.
    """
    embedding = target.get_input_embeddings().weight.detach()
    head = EagleHead(config, embedding_weight=embedding.to(device, torch.float32)).to(device)
    _randomize(head, generator)
    _copy_layer(head, target)
    with torch.no_grad():
        weight = _final_norm(target).to(device, torch.float32)
        head.norm.weight.copy_(weight)
        # The residual stream is the post-norm state with the norm's weight divided out again; taps join by training.
        head.fuse_proj.weight.zero_()
        head.fuse_proj.weight[:, : config.hidden_size] = torch.diag(_inverse(weight))
        head.fc.weight.copy_(_regress(target, head, answers))
    return head


def _inverse(weight: torch.Tensor) -> torch.Tensor:
    smallest = weight.abs().mean() * 0.05
    return 1.0 / torch.where(weight.abs() < smallest, smallest, weight)


def _final_norm(target: Any) -> torch.Tensor:
    weight = target.base_model.norm.weight.detach()
    return weight + 1.0 if target.config.get_text_config().model_type.startswith("gemma") else weight


def _randomize(head: EagleHead, generator: torch.Generator) -> None:
    for parameter in head.parameters():
        if parameter.ndim == 2:
            noise = torch.randn(parameter.shape, generator=generator) * 0.02
            parameter.data.copy_(noise)


def _copy_layer(head: EagleHead, target: Any) -> None:
    source = target.base_model.layers[-1].state_dict()
    norms_add_one = target.config.get_text_config().model_type.startswith("gemma")
    renamed = {"post_attention_layernorm.weight": "pre_feedforward_layernorm.weight"}
    for name, parameter in head.layer.named_parameters():
        key = renamed.get(name, name)
        tensor = source.get(key if key in source else name)
        if tensor is not None and tensor.shape == parameter.shape:
            with torch.no_grad():
                parameter.copy_(tensor + 1.0 if norms_add_one and "norm" in name else tensor)


@torch.no_grad()
def _regress(target: Any, head: EagleHead, answers: list[Answer]) -> torch.Tensor:
    """[H, 2H]: argmin_W |W cat(norm(e_{i+1}), norm(feature_i)) - input of the last layer at i + 1|^2 + ridge."""
    size, device = head.config.hidden_size, head.embedding_weight.device
    gram = torch.zeros(2 * size, 2 * size, dtype=torch.float64)
    cross = torch.zeros(2 * size, size, dtype=torch.float64)
    seen = 0
    for first in range(0, len(answers), _BATCH):
        if seen >= _POSITIONS:
            break
        group = answers[first : first + _BATCH]
        ids, mask = pad_ids(group)
        out = target.base_model(
            input_ids=ids.to(target.device),
            attention_mask=mask.to(target.device),
            use_cache=False,
            output_hidden_states=True,
        )
        last = out.last_hidden_state.to(device, torch.float32)
        features = head.feature_norm(head.fuse(last, tuple(torch.ones_like(last) for _ in head.taps)))
        embeddings = head.embedding_norm(head.embed(ids.to(device)))
        for row, answer in enumerate(group):
            start, end = (
                max(answer.prompt_length - 1, 1),
                len(answer.ids),
            )  # position 0, an attention sink, is no sample
            x = torch.cat((embeddings[row, start + 1 : end], features[row, start : end - 1]), -1).double().cpu()
            y = out.hidden_states[-2][row, start + 1 : end].double().cpu()
            gram += x.T @ x
            cross += x.T @ y
            seen += len(x)
    gram += torch.eye(2 * size, dtype=torch.float64) * (gram.diagonal().mean() * _RIDGE)
    return torch.linalg.solve(gram, cross).T.float()
