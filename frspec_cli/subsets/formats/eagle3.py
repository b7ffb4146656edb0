"""EAGLE-3's draft vocabulary, `d2t` and `t2d`: a .pt, safetensors, speculators' pair of .npy files, or a head's folder.

A d2t that holds ids in place of offsets is wrong for every reader and silent in most, so it is looked for here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from frspec_cli.errors import FrspecError, option
from frspec_cli.subsets.formats.base import (
    AS_IDS,
    AS_OFFSETS,
    ForeignList,
    Writer,
    numpy_bytes,
    torch_bytes,
    whole_numbers,
)
from frspec_cli.subsets.formats.content import INSPECT, Content, load_numpy, open_content
from frspec_cli.subsets.formats.d2t import as_mask, target_ids, to_map
from frspec_cli.subsets.subset import VocabularySubset

_PAIR = ("d2t.npy", "t2d.npy")
_LIST_NAMES = {"torch": "fr-spec", "json": "json"}
_ARRAY_NAMES = {"torch": "ids-pt", "numpy": "npy"}


# Reading.


def read(content: Content, read_as: str | None) -> ForeignList | None:
    """A map, a lone d2t or a lone t2d; None if the content is neither.

    read_as: `ids` or `offsets` if the user says what d2t holds.
    """
    if content.container == "folder":
        return _read_folder(content.path, read_as)
    if content.container == "numpy" and (other := _sibling(content.path)) is not None:
        # speculators' pair: each says what the other means
        return _read_pair(*((content.path, other) if "d2t" in content.path.name else (other, content.path)), read_as)
    if isinstance(content.value, dict):
        return _read_dictionary(content, read_as)
    if isinstance(content.value, list) and read_as == AS_OFFSETS:
        kind = f"{_LIST_NAMES[content.container]}-d2t"
        return from_map(content.name, kind, np.array(content.value, dtype=object), None, read_as)
    if isinstance(content.value, np.ndarray) and content.value.ndim == 1:
        return _read_array(content, read_as)
    return None


def from_map(
    name: str, kind: str, d2t: np.ndarray | None, t2d: np.ndarray | None, read_as: str | None = None
) -> ForeignList:
    """The ids of d2t (offsets [D]) and t2d (mask [V]), either may be None. Raises `FrspecError` if they do not fit."""
    if d2t is None:
        if t2d is None:
            raise FrspecError(f"{name} holds neither d2t nor t2d.")
        return _from_mask(name, t2d)
    offsets = whole_numbers(name, d2t)
    mask = None if t2d is None else as_mask(name, t2d)
    rows = None if mask is None else len(mask)
    if read_as == AS_IDS:
        return ForeignList(name, kind, offsets, ranked=False, vocabulary_rows=rows)
    if read_as is None:
        _refuse_ids(name, offsets, mask)
    falls = np.diff(offsets + np.arange(len(offsets)), prepend=-1) <= 0
    if falls.any():
        raise FrspecError(
            f"{name}: d2t is not a list of offsets: draft + d2t[draft] does not rise at draft id {int(falls.argmax())}."
        )
    return ForeignList(name, kind, target_ids(offsets, mask, name=name), ranked=False, vocabulary_rows=rows)


def _from_mask(name: str, t2d: np.ndarray) -> ForeignList:
    mask = as_mask(name, t2d)
    return ForeignList(name, "t2d", np.flatnonzero(mask), ranked=False, vocabulary_rows=len(mask))


def _read_folder(folder: Path, read_as: str | None) -> ForeignList:
    pairs = [(d2t, t2d) for d2t in sorted(folder.glob("*d2t*.npy")) if (t2d := _sibling(d2t)) is not None]
    if len(pairs) > 1:
        names = ", ".join(d2t.name for d2t, _ in pairs)
        raise FrspecError(f"the folder {folder} holds several maps: {names}; name one.")
    if pairs:
        return _read_pair(*pairs[0], read_as)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            head = read(open_content(folder / name), read_as)
            if head is None:
                raise FrspecError(f"{folder / name} holds tensors, but no d2t and no t2d.", hint=INSPECT)
            return head
    raise FrspecError(f"the folder {folder} holds neither d2t.npy with t2d.npy nor a head with its d2t.")


def _read_pair(d2t: Path, t2d: Path, read_as: str | None) -> ForeignList:
    return from_map(str(d2t.parent), "speculators", load_numpy(d2t), load_numpy(t2d), read_as)


def _sibling(path: Path) -> Path | None:
    """d2t.npy beside t2d.npy and the other way round, also d2t-32000.npy beside t2d-32000.npy."""
    one, other = ("d2t", "t2d") if "d2t" in path.name else ("t2d", "d2t")
    sibling = path.with_name(path.name.replace(one, other))
    return sibling if one in path.name and sibling.is_file() else None


def _read_dictionary(content: Content, read_as: str | None) -> ForeignList | None:
    d2t, t2d = (_entry(content, key) for key in ("d2t", "t2d"))
    if d2t is None and t2d is None:
        return None
    kind = "eagle3-safetensors" if content.container == "safetensors" else "eagle3"
    return from_map(content.name, kind, d2t, t2d, read_as)


def _entry(content: Content, key: str) -> np.ndarray | None:
    """The array named `key`, also behind a prefix such as `model.`; None if there is none."""
    name = next((name for name in content.value if str(name).split(".")[-1] == key), None)
    if name is None:
        return None
    value = content.value[name]
    if isinstance(value, (list, tuple)):
        return np.array(value, dtype=bool if {type(each) for each in value} == {bool} else object)
    if not isinstance(value, np.ndarray):
        raise FrspecError(f"{content.name}: {name} is not an array of one dimension.")
    return value


def _read_array(content: Content, read_as: str | None) -> ForeignList | None:
    """A lone array that is a mask, or offsets."""
    values = content.value
    if values.dtype == bool and len(values):
        return _from_mask(content.name, values)
    if not np.issubdtype(values.dtype, np.integer) or not len(values):
        return None
    # Offsets never fall and repeat wherever two neighbouring ids are both kept; a list of ids has no repeats. (Only a
    # vocabulary without a single pair of neighbours could be read both ways; taken as ids, unless the user says so.)
    repeats = len(np.unique(values)) < len(values)
    falls = bool((values[1:] < values[:-1]).any())
    if read_as == AS_OFFSETS or (read_as is None and repeats and not falls and values[0] >= 0):
        return from_map(content.name, f"{_ARRAY_NAMES[content.container]}-d2t", values, None, AS_OFFSETS)
    return None


def _refuse_ids(name: str, offsets: np.ndarray, mask: np.ndarray | None) -> None:
    """Raises `FrspecError` if d2t seems to hold ids in place of offsets."""
    distinct = len(np.unique(offsets)) == len(offsets) and len(offsets) > 1 and bool((offsets >= 0).all())
    if mask is None:
        holds_ids = distinct  # offsets without one repeat would mean that no two neighbouring ids are kept
    else:
        ids = offsets + np.arange(len(offsets))
        fits = len(ids) == mask.sum() and ids.min() >= 0 and ids.max() < len(mask) and bool(mask[ids].all())
        holds_ids = distinct and not fits and offsets.max() < len(mask) and bool(mask[offsets].all())
    if holds_ids:
        raise FrspecError(
            f"{name}: d2t seems to hold absolute ids, not offsets (target = draft + d2t[draft]): no value repeats"
            + ("." if mask is None else ", and they are the ids that t2d marks."),
            hint=f"If so, import it with {option('as')} ids; if they are offsets after all, with {option('as')} offsets.",
        )


# Writing.


def _write_map(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    import torch

    d2t, t2d = (torch.from_numpy(array) for array in to_map(ids, rows))
    if out.endswith(".safetensors"):
        from safetensors.torch import save

        return {out: save({"d2t": d2t, "t2d": t2d})}
    return {out: torch_bytes({"d2t": d2t, "t2d": t2d})}


def _write_pair(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    if Path(out).is_file():
        raise FrspecError(f"{out} is a file, but speculators reads a folder with d2t.npy and t2d.npy.")
    d2t, t2d = to_map(ids, rows)
    return {f"{out}/{name}": numpy_bytes(array) for name, array in zip(_PAIR, (d2t, t2d), strict=True)}


WRITERS = {
    "eagle3": Writer(_write_map, "id", ".eagle3.pt", order_is_fixed=True, holds_rows=True),
    "speculators": Writer(_write_pair, "id", ".speculators", order_is_fixed=True, holds_rows=True, folder_files=_PAIR),
}
