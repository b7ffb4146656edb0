"""Tensor files, read without ever running code: safetensors, and `torch.save` files with `weights_only=True`."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from frspec_cli.errors import FrspecError

_BROKEN = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What a damaged header raises: an unknown dtype, for one, is not a `SafetensorError`."""


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file. Raises `FrspecError` if it is missing or broken."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except _BROKEN as error:
        raise FrspecError(f"{path} is not a readable safetensors file: {error}.") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in a .safetensors file's header, {} if there is none. Raises `FrspecError` if it is missing or broken."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except _BROKEN as error:
        raise FrspecError(f"{path} is not a readable safetensors file: {error}.") from None


def read_outline(path: Path, *, whole: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, on the meta device (shapes and no memory) but for names that end in one of `whole`.

    Raises `FrspecError` if it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {
                name: file.get_tensor(name)
                if name.endswith(whole)
                else torch.empty(file.get_slice(name).get_shape(), device="meta")
                for name in sorted(file.keys())
            }
    except _BROKEN as error:
        raise FrspecError(f"{path} is not a readable safetensors file: {error}.") from None


def read_tensor(path: Path, name: str, rows: int | None = None) -> torch.Tensor:
    """One tensor of a .safetensors file that has it, or its first `rows`. Raises `FrspecError` if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) if rows is None else file.get_slice(name)[:rows]
    except _BROKEN as error:
        raise FrspecError(f"{path} is not a readable safetensors file: {error}.") from None


def safetensors_shapes(path: Path | str) -> dict[str, dict[str, Any]]:
    """name -> {"shape", "dtype"} of each tensor, from the file's header alone. Raises `FrspecError` if it is damaged."""
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            return {name: {"shape": each.get_shape(), "dtype": str(each.get_dtype())} for name, each in slices.items()}
    except _BROKEN as error:
        raise FrspecError(f"{path} is not a readable safetensors file: {error}.") from None


def load_torch(path: Path) -> Any:
    """What `torch.save` wrote: plain data and tensors only, on the CPU; weights stay on the disk until they are read.

    Raises `FrspecError` if the file asks for code to be run, or cannot be read.
    """
    try:
        mapped = zipfile.is_zipfile(path)
        # torch warns about pickle protocols, on which nobody can act.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        match = re.search(r"GLOBAL (\S+)|Unsupported (?:class|operand) (\S+)", str(error))
        code = f" ({match[1] or match[2]})" if match else ""
        raise FrspecError(
            f"{path} is refused: it is a pickle that asks for more than plain data{code}. Nothing in it was run.",
            hint="Ask its authors for safetensors, or for a plain list of ids.",
        ) from None
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except (*_BROKEN, RuntimeError, EOFError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FrspecError(f"{path} is not a file that torch can read: {reason}") from None


def write_safetensors(tensors: dict[str, torch.Tensor], path: Path, *, metadata: dict[str, str]) -> None:
    """Writes a .safetensors file with the permissions that the user's umask gives (`save_file` would make it 0600)."""
    path.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


@contextmanager
def disk_errors() -> Iterator[None]:
    """Around foreign code that writes safetensors: a full disk is an OSError, as everywhere else, not a SafetensorError."""
    try:
        yield
    except SafetensorError as error:
        if match := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(match[1]), os.strerror(int(match[1]))) from error
        raise
