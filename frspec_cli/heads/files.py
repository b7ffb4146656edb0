"""A draft head's files, in a folder or on the hub: read without ever running pickled code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from frspec_cli import schema
from frspec_cli.errors import FrspecError
from frspec_cli.heads.config import detect_layout
from frspec_cli.models.locate import HUB_ID, download_snapshot
from frspec_cli.models.weight_files import read_index
from frspec_cli.tensor_files import load_torch, read_outline, read_safetensors, safetensors_shapes

WEIGHTS = "model.safetensors"
HEAD = "a folder that holds a draft head and nothing else"
_BIN = "pytorch_model.bin"


def locate_head(name: str | Path) -> Path:
    """The folder with config.json and weights that `name` means: an existing folder, else `owner/name` on the hub.

    Raises `FrspecError` if there is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or not HUB_ID.fullmatch(str(name)):
        raise FrspecError(f"there is no draft head at {name}: it is not a folder.")
    try:
        folder = download_snapshot(str(name), ["config.json", "*.safetensors", "*.safetensors.index.json"])
        if not any(folder.glob("*.safetensors")):  # older heads are pickles: the last resort
            folder = download_snapshot(str(name), ["config.json", "pytorch_model*.bin", "pytorch_model.bin.index.json"])
    except FrspecError as error:
        raise FrspecError(
            f"there is no draft head at {name}: it is not a folder, and {error.message}", hint=error.hint
        ) from None
    return folder


def holds_only_head(folder: Path) -> bool:
    """Whether `folder` holds a draft head as frspec writes one, and nothing else: then another may replace it."""
    if not {file.name for file in folder.iterdir()} <= {"config.json", WEIGHTS, "README.md"}:
        return False
    try:
        return detect_layout(read_config(folder), safetensors_shapes(folder / WEIGHTS)) is not None
    except (FrspecError, OSError):
        return False


def read_config(folder: Path) -> dict[str, Any]:
    """The head's config.json. Raises `FrspecError` if there is none, or if it is not a JSON object."""
    return schema.read_object(folder / "config.json")


def read_tensors(
    folder: Path, *, read_safetensors: Callable[[Path], dict[str, torch.Tensor]] = read_safetensors
) -> dict[str, torch.Tensor]:
    """All tensors of a head's folder: model.safetensors or pytorch_model.bin, whole or in shards.

    Raises `FrspecError` if there is no such file, it is broken, or it holds more than tensors.
    """
    for name, read in ((WEIGHTS, read_safetensors), (_BIN, read_bin)):
        if (folder / name).is_file():
            return read(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _read_shards(folder / f"{name}.index.json", read)
    single = sorted(folder.glob("*.safetensors"))
    if len(single) == 1:
        return read_safetensors(single[0])
    raise FrspecError(f"{folder} holds neither {WEIGHTS} nor {_BIN}.")


def read_outlines(folder: Path) -> dict[str, torch.Tensor]:
    """As `read_tensors`, but of safetensors only the vocabulary map and RoPE's frequencies are read; of the rest the shapes."""

    def outline(path: Path) -> dict[str, torch.Tensor]:
        return read_outline(path, whole=("d2t", "t2d", "inv_freq"))

    return read_tensors(folder, read_safetensors=outline)


def read_bin(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file that `torch.save` wrote. Raises `FrspecError` for one that holds anything else."""
    tensors = load_torch(path)
    if not isinstance(tensors, dict) or not all(isinstance(each, torch.Tensor) for each in tensors.values()):
        raise FrspecError(f"{path} is not a mapping of names to tensors.")
    return tensors


def _read_shards(index: Path, read: Any) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(set(read_index(index).values())):
        tensors |= read(index.parent / name)
    return tensors
