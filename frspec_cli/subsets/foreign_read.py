"""Reads other projects' files, told apart by their first bytes and by what they hold, never by name.

Nothing here runs code from a file: .pt goes through `torch.load(weights_only=True)`, .npy without pickles.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from frspec_cli.errors import FrspecError
from frspec_cli.subsets import foreign
from frspec_cli.subsets.foreign import ForeignList
from frspec_cli.tensor_files import load_torch

_LARGEST_TEXT = 200_000_000  # bytes; ten million ids as text


def read_foreign(path: Path | str, *, read_as: str | None = None) -> ForeignList:
    """The ids in a foreign file, or in a folder with d2t.npy and t2d.npy or an EAGLE-3 head.

    read_as: `ids` or `offsets` where the file could mean either. Raises `FrspecError` saying why a file is refused.
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(path, read_as)
    content = container(path)
    if content == "numpy":
        return _from_numpy(path, read_as)
    if content == "torch":
        return classify(str(path), load_torch(path), read_as)
    if content == "safetensors":
        return _from_safetensors(path, read_as)
    if content == "json":
        return _from_json(path, read_as)
    if content == "parquet":
        raise FrspecError(f"{path} is a parquet file, which no peer uses for a draft vocabulary.", hint=_INSPECT)
    return _from_text(path)


_INSPECT = "See what it is with `frspec inspect`."


def container(path: Path | str) -> str:
    """numpy, torch (zip or pickle), safetensors, parquet, json or text, by the first bytes."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except OSError as error:
        raise FrspecError(f"{path} cannot be read: {error.strerror}.") from None
    if head.startswith(b"\x93NUMPY"):
        return "numpy"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"
    if head.startswith(b"PAR1"):
        return "parquet"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= Path(path).stat().st_size:
        return "safetensors"
    return "json" if head.lstrip()[:1] in (b"[", b"{") else "text"


def classify(name: str, value: Any, read_as: str | None = None) -> ForeignList:
    """What an object out of a .pt is: a list, a tensor, a d2t/t2d pair, counts; anything else is refused."""
    import torch

    if isinstance(value, torch.Tensor):
        return foreign.from_numbers(name, "ids-pt", _array(name, value), read_as)
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(each, float) for each in value):
            return foreign.from_scores(name, np.array(value))
        return foreign.from_ids(name, "fr-spec", np.array(value, dtype=object))
    if isinstance(value, dict):
        return _from_dict(name, value, read_as)
    raise FrspecError(f"{name} holds a {type(value).__name__}, which is no draft vocabulary.")


def _from_dict(name: str, value: dict, read_as: str | None) -> ForeignList:
    d2t, t2d = _ending(value, "d2t"), _ending(value, "t2d")
    if d2t is not None or t2d is not None:
        arrays = [None if each is None else _array(name, each) for each in (d2t, t2d)]
        return foreign.from_map(name, "eagle3", arrays[0], arrays[1], read_as)
    if value and all(isinstance(key, int) and not isinstance(key, bool) for key in value):
        return foreign.from_counts(name, "token-freq", value)
    keys = ", ".join(str(key) for key in list(value)[:5])
    raise FrspecError(
        f"{name} holds a dictionary ({keys}{', ...' if len(value) > 5 else ''}) without d2t, t2d or counts by token id.",
        hint="An EAGLE-1/2 head carries no vocabulary: its subset is a file of its own."
        if "fc.weight" in value
        else "",
    )


def _ending(value: dict, key: str) -> Any:
    """The entry named `key`, also behind a prefix such as `model.`."""
    return next((each for name, each in value.items() if str(name).split(".")[-1] == key), None)


def _array(name: str, value: Any) -> np.ndarray:
    import torch

    if isinstance(value, torch.Tensor):
        if value.dtype == torch.bfloat16:
            value = value.float()
        return value.detach().cpu().numpy()
    if isinstance(value, (list, tuple)):
        kinds = {type(each) for each in value}
        return np.array(value, dtype=bool if kinds == {bool} else object)
    raise FrspecError(f"{name} holds a {type(value).__name__} where an array should be.")


def _from_numpy(path: Path, read_as: str | None) -> ForeignList:
    values = _load_numpy(path)
    if (sibling := _sibling(path)) is not None:  # speculators' pair: each says what the other means
        pair = (path, sibling) if "d2t" in path.name else (sibling, path)
        return _from_pair(*pair, read_as)
    return foreign.from_numbers(str(path), "npy", values, read_as)


def _sibling(path: Path) -> Path | None:
    """d2t.npy beside t2d.npy and the other way round, also d2t-32000.npy beside t2d-32000.npy."""
    one, other = ("d2t", "t2d") if "d2t" in path.name else ("t2d", "d2t")
    sibling = path.with_name(path.name.replace(one, other))
    return sibling if one in path.name and sibling.is_file() else None


def _from_pair(d2t: Path, t2d: Path, read_as: str | None) -> ForeignList:
    return foreign.from_map(str(d2t.parent), "speculators", _load_numpy(d2t), _load_numpy(t2d), read_as)


def _load_numpy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = "it holds pickled objects" if "allow_pickle" in str(error) else str(error).splitlines()[0]
        raise FrspecError(f"{path} is refused: {reason}.") from None


def _from_safetensors(path: Path, read_as: str | None) -> ForeignList:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            found = {key: next((n for n in names if n.split(".")[-1] == key), None) for key in ("d2t", "t2d")}
            d2t, t2d = (None if n is None else file.get_tensor(n) for n in found.values())
    except SafetensorError as error:
        raise FrspecError(f"{path} is no safetensors file: {error}.") from None
    if d2t is None and t2d is None:
        raise FrspecError(f"{path} holds tensors, but no d2t and no t2d.", hint=_INSPECT)
    return foreign.from_map(str(path), "eagle3-safetensors", d2t, t2d, read_as)


def _from_json(path: Path, read_as: str | None) -> ForeignList:
    try:
        value = json.loads(_text(path))
    except ValueError as error:
        raise FrspecError(f"{path} is no JSON: {error}.") from None
    if isinstance(value, list):
        return foreign.from_ids(str(path), "json", np.array(value, dtype=object))
    listed = next((value[key] for key in ("token_ids", "ids") if isinstance(value.get(key), list)), None)
    if listed is not None:
        return foreign.from_ids(str(path), "json", np.array(listed, dtype=object))
    if value and all(key.isdecimal() for key in value):
        return foreign.from_counts(str(path), "json-counts", {int(key): count for key, count in value.items()})
    return _from_dict(str(path), value, read_as)


def _from_text(path: Path) -> ForeignList:
    ids = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        if not re.fullmatch(r"\s*\d{1,10}\s*", line):
            shown = line.strip()[:40]
            raise FrspecError(f"{path}: line {number} ({shown!r}) is no token id; such a file has one id a line.")
        ids.append(int(line))
    return foreign.from_ids(str(path), "txt", np.array(ids, dtype=np.int64))


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST_TEXT:
        raise FrspecError(f"{path} is far too large for a list of token ids ({path.stat().st_size:,} bytes).")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise FrspecError(f"{path} is no file that frspec knows: neither text nor a known binary format.")
    return text


def _from_folder(folder: Path, read_as: str | None) -> ForeignList:
    pairs = [(each, _sibling(each)) for each in sorted(folder.glob("*d2t*.npy"))]
    found = [(d2t, t2d) for d2t, t2d in pairs if t2d is not None]
    if len(found) > 1:
        raise FrspecError(
            f"the folder {folder} holds several maps: {', '.join(d2t.name for d2t, _ in found)}; name one."
        )
    if found:
        return _from_pair(*found[0], read_as)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return read_foreign(folder / name, read_as=read_as)
    raise FrspecError(f"the folder {folder} holds neither d2t.npy with t2d.npy nor a head with its d2t.")
