"""The input embedding of a model, read from its files without loading the model."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from frspec_cli.tensor_files import safetensors_shapes

_NAMES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight")
"""How families name it, after whatever comes before."""


def read_embedding(folder: Path) -> torch.Tensor | None:
    """[V, H], the input embedding of the model in `folder`; None if no tensor of its safetensors is named like one.

    Of several (a module for multi-token prediction may have a copy), it is the one with the shortest name.
    """
    matches = [
        (len(name), name, path)
        for path in sorted(folder.glob("*.safetensors"))
        for name in safetensors_shapes(path)
        if any(name == each or name.endswith("." + each) for each in _NAMES)
    ]
    if not matches:
        return None
    _, name, path = min(matches)
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
