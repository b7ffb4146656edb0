"""The tensor names of an MTP module that stands alone: those of DeepSeek-V3's published checkpoints, its layer's number 0.

With the number of the target's layers in its place, the tensors are what a checkpoint of that family holds behind its last
layer.
"""

from __future__ import annotations

import torch

from frspec_cli.errors import FrspecError
from frspec_cli.heads.config import LAYER, tensor_name

_PREFIX = "model."
_PUBLISHED = {
    "embedding_norm.weight": LAYER + "enorm.weight",
    "feature_norm.weight": LAYER + "hnorm.weight",
    "fc.weight": LAYER + "eh_proj.weight",
    "norm.weight": LAYER + "shared_head.norm.weight",
}
"""Published names of what is not in the layer, by `EagleHead`'s; the layer's own are the same."""
_OURS = {published: name for name, published in _PUBLISHED.items()}


def published_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an `EagleHead` of the layout "mtp" by their published names."""
    return {_PREFIX + _PUBLISHED.get(name, name): tensor for name, tensor in tensors.items()}


def module_tensors(tensors: dict[str, torch.Tensor], *, where: str) -> dict[str, torch.Tensor]:
    """The tensors of a file by `EagleHead`'s names. Raises `FrspecError` for an unknown name and a missing one."""
    ours = {}
    for name, tensor in tensors.items():
        published = tensor_name(name)
        if not published.startswith(LAYER):
            raise FrspecError(f"{where} holds an unknown tensor {name} of shape {list(tensor.shape)}.")
        ours[_OURS.get(published, published)] = tensor
    missing = [published for name, published in _PUBLISHED.items() if name not in ours]
    if missing:
        raise FrspecError(f"{where} lacks the tensor {_PREFIX}{missing[0]}.")
    return ours
