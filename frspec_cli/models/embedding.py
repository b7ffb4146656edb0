"""The input embedding and the LM head of a model, read from its files without loading the model."""

from __future__ import annotations

from pathlib import Path

import torch

from frspec_cli.errors import FrspecError
from frspec_cli.tensor_files import read_tensor, safetensors_shapes

_NAMES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight")
"""How families name it, after whatever comes before."""


def read_embedding(folder: Path) -> torch.Tensor | None:
    """[V, H], the input embedding of the model in `folder`; None if no tensor of its safetensors is named like one.

    Of several (a module for multi-token prediction may have a copy), it is the one with the shortest name.
    """
    return _read(folder, _NAMES)


def read_lm_head(folder: Path, *, tied: bool) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """(weight [V, H], bias [V] or None) of the model's LM head; None if no tensor is named like one.

    tied: the input embedding serves if there is none.
    """
    weight = _read(folder, ("lm_head.weight",))
    if weight is None and tied:
        weight = read_embedding(folder)
    return None if weight is None else (weight, _read(folder, ("lm_head.bias",)))


def _read(folder: Path, names: tuple[str, ...]) -> torch.Tensor | None:
    """The tensor with the shortest name that is one of `names` after whatever comes before; None if there is none."""
    matches = [
        (len(name), name, path)
        for path in sorted(folder.glob("*.safetensors"))
        for name in safetensors_shapes(path)
        if any(name == each or name.endswith("." + each) for each in names)
    ]
    if not matches:
        return None
    _, name, path = min(matches)
    return read_tensor(path, name)


def first_rows(folder: Path, name: str, count: int) -> torch.Tensor:
    """[at most count, ..]: the first rows of the tensor `name` of the model in `folder`, which has it."""
    for path in sorted(folder.glob("*.safetensors")):
        if name in safetensors_shapes(path):
            return read_tensor(path, name, count)
    raise FrspecError(f"{folder} states a tensor {name} in its index and holds it in no file.")
