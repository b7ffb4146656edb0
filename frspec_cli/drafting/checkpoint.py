"""Draft heads on disk: a folder with config.json, model.safetensors and a card.

Tensors are trusted over config fields, and every difference is an error that names the tensor, its shape and what was
expected: a head that loads halfway drafts badly and silently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from frspec_cli import storage
from frspec_cli.drafting.config import HeadConfig, own_config
from frspec_cli.drafting.head import EagleHead
from frspec_cli.errors import FrspecError

WEIGHTS = "model.safetensors"


def save_head(
    head: EagleHead, folder: Path | str, *, card: str, extra: dict[str, Any] | None = None, dtype: torch.dtype
) -> None:
    """Writes a head of our own layout to `folder`, whole or not at all: config, weights cast to `dtype`, card.

    The target's embedding and LM head are not written. extra: more keys of config.json (whose target, how trained).
    """
    if head.config.layout != "frspec":
        raise ValueError(f"save_head writes the frspec layout, not {head.config.layout}")
    tensors = {name: tensor.detach().to("cpu", dtype) for name, tensor in head.state_dict().items()}
    with storage.atomic_folder(folder) as temporary:
        write_tensors(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        config = head.config.to_json() | {"dtype": str(dtype).removeprefix("torch.")} | (extra or {})
        storage.write_json(temporary / "config.json", config)
        storage.write_text(temporary / "README.md", card)


def write_tensors(tensors: dict[str, torch.Tensor], path: Path, *, metadata: dict[str, str]) -> None:
    """Writes a .safetensors file with the permissions that the user's umask gives (`save_file` would make it 0600)."""
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def load_head(
    path: str | Path,
    *,
    target_config: Any,
    embedding_weight: torch.Tensor,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> EagleHead:
    """The head in the folder `path`, on `device` in `dtype`, ready to draft for the target.

    target_config: the target's text config. embedding_weight: its [V, H]; shared as it is where device and dtype agree.
    Raises `FrspecError` for a head of another target, and for missing, unknown or wrongly shaped tensors.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise FrspecError(f"there is no draft head at {path}: no such folder.")
    raw = storage.read_json(folder / "config.json")
    if raw.get("architectures") != ["FrspecEagle"]:
        raise FrspecError(f"{path}: heads of the architecture {raw.get('architectures')} cannot be loaded yet.")
    config = own_config(raw, where=str(path))
    check_target(config, target_config, where=str(path))
    head = EagleHead(config, embedding_weight=embedding_weight.to(device, dtype))
    load_weights(head, read_tensors(folder / WEIGHTS), where=str(path))
    return head.to(device, dtype).requires_grad_(False).eval()


def check_target(config: HeadConfig, target_config: Any, *, where: str) -> None:
    """Raises `FrspecError` where the head was made for a target of another size."""
    for name in ("hidden_size", "vocab_size"):
        ours, theirs = getattr(config, name), getattr(target_config, name)
        if ours != theirs:
            raise FrspecError(
                f"{where} is a draft head of another target: its {name} is {ours}, the target's is {theirs}."
            )
    layers = target_config.num_hidden_layers
    past = [tap for tap in config.taps if not 0 <= tap <= layers]
    if past:
        raise FrspecError(f"{where} taps hidden state {past[0]}, but the target has {layers} layers.")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file. Raises `FrspecError` where it is missing or broken."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except (SafetensorError, OSError) as error:
        raise FrspecError(f"{path} is no readable safetensors file: {error}.") from None


def load_weights(head: EagleHead, tensors: dict[str, torch.Tensor], *, where: str) -> None:
    """Copies `tensors` into the head. Raises `FrspecError` unless names and shapes are exactly the head's."""
    expected = head.state_dict()
    for name, tensor in tensors.items():
        if name not in expected:
            raise FrspecError(f"{where} holds an unknown tensor {name} of shape {list(tensor.shape)}.")
        if tensor.shape != expected[name].shape:
            raise FrspecError(
                f"{where}: tensor {name} has shape {list(tensor.shape)}, expected {list(expected[name].shape)}."
            )
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise FrspecError(f"{where} lacks the tensor {missing[0]} of shape {list(expected[missing[0]].shape)}.")
    head.load_state_dict(tensors)
