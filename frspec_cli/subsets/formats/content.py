"""Opens a foreign file: what it holds as plain Python and numpy, before anyone asks what it means.

The container is told by the first bytes, never by the name. Nothing here runs code from a file: .pt goes through
`torch.load(weights_only=True)`, .npy without pickles.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import numpy as np

from frspec_cli import bounded_json
from frspec_cli.errors import ArtifactError, FrspecError
from frspec_cli.models.gguf_header import check_gguf

Container = Literal["numpy", "torch", "safetensors", "gguf", "parquet", "json", "text", "raw"]
INSPECT = "See what it is with `frspec inspect`."
_NUMPY_DTYPES = ("BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "F16", "F32", "F64")
_BROKEN_NUMPY = (ValueError, EOFError, OSError, SyntaxError, TokenError, TypeError, OverflowError, RecursionError)
"""What a damaged header raises: numpy reads it with Python's own parser, and once more with its tokenizer."""
_LARGEST_TEXT = 200_000_000  # bytes; ten million ids as text
_LARGEST_RAW_ID = 2**21  # no vocabulary comes near, and digits in UTF-16 are above it


@dataclass(frozen=True)
class Gguf:
    """What a .gguf holds that may be a vocabulary.

    tensors: name -> the array of each integer tensor with one dimension.
    lists: key -> int64 array of each list of whole numbers.
    rows: the number of tokens of its tokenizer; None if it has none.
    """

    tensors: dict[str, np.ndarray]
    lists: dict[str, np.ndarray]
    rows: int | None


@dataclass(frozen=True)
class Content:
    """A foreign file, opened but not yet interpreted.

    path: the file; a reader may look at the files beside it.
    container: how the file is packed; raw is little-endian int32 and nothing else.
    value: an array (numpy, torch, raw), a list (torch, json), a dictionary (torch, json, safetensors), a string (text), or
        a `Gguf`. Tensors are numpy arrays; those of a dictionary only if they have one dimension, as vocabularies have.
    """

    path: Path
    container: Container
    value: Any

    @property
    def name(self) -> str:
        """The file, for messages."""
        return str(self.path)


def container(path: Path | str) -> Container:
    """How a file is packed, by its first bytes (torch: zip or pickle). Raises `FrspecError` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except OSError as error:
        raise FrspecError(f"{path} cannot be read: {error.strerror}.") from None
    if head.startswith(b"\x93NUMPY"):
        return "numpy"
    if head.startswith(b"PK\x03\x04") or (head[:1] == b"\x80" and head[2:3] >= b" "):  # raw int32 of 128 is no pickle
        return "torch"
    if head.startswith(b"GGUF"):
        return "gguf"
    if head.startswith(b"PAR1"):
        return "parquet"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= Path(path).stat().st_size:
        return "safetensors"
    return "json" if head.lstrip()[:1] in (b"[", b"{") and b"\0" not in head[:4] else "text"  # nor is 91 JSON


def open_content(path: Path | str) -> Content:
    """Opens a file. Raises `FrspecError` saying why it is refused."""
    path = Path(path)
    kind = container(path)
    if kind == "parquet":
        raise FrspecError(
            f"{path} is a parquet file, which no other project uses for draft vocabularies.", hint=INSPECT
        )
    loaders = {"numpy": load_numpy, "torch": _torch, "safetensors": _safetensors, "gguf": _gguf, "json": _json}
    if kind == "text":
        raw = _raw(path)
        return Content(path, "text", _text(path)) if raw is None else Content(path, "raw", raw)
    return Content(path, kind, loaders[kind](path))


def load_numpy(path: Path) -> np.ndarray:
    """The array of a .npy file. Raises `FrspecError` if it holds pickled objects or is broken."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a header as old versions wrote it
            _check_length(path)
            return np.load(path, allow_pickle=False)
    except _BROKEN_NUMPY as error:
        said = str(error.args[0] if isinstance(error, TokenError) else error) or type(error).__name__
        reason = "it holds pickled objects" if "allow_pickle" in said else said.splitlines()[0]
        raise FrspecError(f"{path} is refused: {reason}.") from None


def _check_length(path: Path) -> None:
    """Raises `FrspecError` if a .npy file's header asks for more memory than the file has bytes."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in headers:
            raise ValueError(f"its format version is {version}")
        shape, _, dtype = headers[version](file)
        rest = path.stat().st_size - file.tell()
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > rest:
        raise ArtifactError(path, "its shape", f"at most the {rest} bytes of the file", found=str(shape))


def _torch(path: Path) -> Any:
    import torch

    from frspec_cli.tensor_files import load_torch

    def array(tensor: torch.Tensor) -> np.ndarray:
        # numpy has no bfloat16
        try:
            return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        except (TypeError, RuntimeError):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ArtifactError(path, "a tensor", "numbers that numpy has", found=f"of the dtype {kind}") from None

    value = load_torch(path)
    if isinstance(value, torch.Tensor):
        return array(value)
    if isinstance(value, dict):
        return {
            key: array(each) if isinstance(each, torch.Tensor) and each.ndim == 1 else each
            for key, each in value.items()
        }
    return list(value) if isinstance(value, tuple) else value


def _safetensors(path: Path) -> dict[str, np.ndarray | None]:
    """Every name, with its array if that has one dimension, so that no weights are read; else with None."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
            flat = {
                name
                for name, each in slices.items()
                if len(each.get_shape()) == 1 and each.get_dtype() in _NUMPY_DTYPES
            }
            return {name: file.get_tensor(name) if name in flat else None for name in slices}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise FrspecError(f"{path} is not a safetensors file: {error}.") from None


def _gguf(path: Path) -> Gguf:
    from gguf import GGUFReader, GGUFValueType

    check_gguf(path)
    try:
        reader = GGUFReader(path)
        whole = {each for each in GGUFValueType if "INT" in each.name}
        lists = {
            name: np.array(field.contents(), dtype=np.int64)
            for name, field in reader.fields.items()
            if field.types[0] == GGUFValueType.ARRAY and field.types[-1] in whole
        }
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise FrspecError(f"{path} is not a whole .gguf: {error}.") from None
    tensors = {
        each.name: np.array(each.data)
        for each in reader.tensors
        if len(each.shape) == 1 and each.tensor_type.name in ("I8", "I16", "I32", "I64")
    }
    tokens = reader.fields.get("tokenizer.ggml.tokens")
    return Gguf(tensors, lists, None if tokens is None else len(tokens.data))


def _raw(path: Path) -> np.ndarray | None:
    """int64 [n]: a file of little-endian int32 and nothing else; None if a number is no token id, or if it is text."""
    if not 0 < path.stat().st_size <= _LARGEST_TEXT or path.stat().st_size % 4:
        return None
    values = np.fromfile(path, dtype="<i4")
    return values.astype(np.int64) if ((values >= 0) & (values < _LARGEST_RAW_ID)).all() else None


def _json(path: Path) -> Any:
    try:
        return bounded_json.loads(_text(path))
    except ValueError as error:
        raise FrspecError(f"{path} is not valid JSON: {error}.") from None


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST_TEXT:
        raise FrspecError(f"{path} is far too large for a list of token ids ({path.stat().st_size:,} bytes).")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise FrspecError(f"{path} is not a file that frspec knows: neither text nor a known binary format.")
    return text
