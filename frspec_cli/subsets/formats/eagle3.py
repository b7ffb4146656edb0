"""EAGLE-3's draft vocabulary, `d2t` and `t2d`: a .pt, safetensors, a lone d2t, or speculators' pair of .npy files.

A d2t that holds ids in place of offsets is wrong for every reader and silent in most, so it is looked for here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from frspec_cli.errors import FrspecError, option
from frspec_cli.subsets.formats.base import (
    AS_IDS,
    AS_OFFSETS,
    LONGEST_EOS_BLOCK,
    ForeignList,
    Writer,
    from_ids,
    is_ranked,
    numpy_bytes,
    objects,
    torch_bytes,
    whole_numbers,
)
from frspec_cli.subsets.formats.content import Content, load_numpy
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
    if content.container == "numpy" and (other := sibling(content.path)) is not None:
        # speculators' pair: each says what the other means
        return _read_pair(*((content.path, other) if "d2t" in content.path.name else (other, content.path)), read_as)
    if isinstance(content.value, dict):
        return _read_dictionary(content, read_as)
    if isinstance(content.value, list) and read_as == AS_OFFSETS:
        kind = f"{_LIST_NAMES[content.container]}-d2t"
        return from_map(content.name, kind, objects(content.value), None, read_as)
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
        return from_ids(name, kind, offsets, rows=rows)
    if read_as is None:
        _refuse_ids(name, offsets, mask)
    ids = target_ids(offsets, mask, name=name)
    return ForeignList(name, kind, ids, ranked=is_ranked(ids), vocabulary_rows=rows, reading=AS_OFFSETS)


def _from_mask(name: str, t2d: np.ndarray) -> ForeignList:
    mask = as_mask(name, t2d)
    return ForeignList(name, "t2d", np.flatnonzero(mask), ranked=False, vocabulary_rows=len(mask), reading="mask")


def _read_pair(d2t: Path, t2d: Path, read_as: str | None) -> ForeignList:
    return from_map(str(d2t.parent), "speculators", load_numpy(d2t), load_numpy(t2d), read_as)


def sibling(path: Path) -> Path | None:
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
        return np.array(value, dtype=bool) if {type(each) for each in value} == {bool} else objects(value)
    if not isinstance(value, np.ndarray):
        raise FrspecError(f"{content.name}: {name} is not an array of one dimension.")
    return value


def _read_array(content: Content, read_as: str | None) -> ForeignList | None:
    """A lone array that is a mask, or that could be offsets: Model-Optimizer's d2t.pt is nothing else."""
    values = content.value
    if values.dtype == bool and len(values):
        return _from_mask(content.name, values)
    if not np.issubdtype(values.dtype, np.integer) or not len(values) or read_as not in (None, AS_OFFSETS):
        return None
    if read_as == AS_OFFSETS:
        return from_map(content.name, f"{_ARRAY_NAMES[content.container]}-d2t", values, None, AS_OFFSETS)
    return ids_or_offsets(content.name, _ARRAY_NAMES[content.container], values)


def ids_or_offsets(name: str, kind: str, values: np.ndarray, *, rows: int | None = None) -> ForeignList:
    """A lone array of whole numbers, in the reading that it allows; `otherwise` is the other one if both may be meant.

    Ids are not negative, and repeat at most in the end-of-sequence block that FR-Spec's script appends. Offsets give
    each token once. Offsets by id never fall and repeat wherever two neighbouring ids are kept, as ids never do.
    rows: the target's; None if the file does not tell.
    """
    values = whole_numbers(name, values)
    as_ids = from_ids(name, kind, values, rows=rows)
    tokens = values + np.arange(len(values))
    if tokens.min() < 0 or len(np.unique(tokens)) < len(tokens):
        return as_ids
    ranked = is_ranked(tokens)
    as_offsets = ForeignList(name, f"{kind}-d2t", tokens, ranked=ranked, vocabulary_rows=rows, reading=AS_OFFSETS)
    _, first = np.unique(values, return_index=True)
    repeated = np.setdiff1d(np.arange(len(values)), first)
    if not len(repeated) and values.min() >= 0:
        return replace(as_ids, otherwise=as_offsets)
    if values.min() < 0 or not ranked or repeated[0] < len(values) - LONGEST_EOS_BLOCK:
        return as_offsets
    return replace(as_offsets, otherwise=as_ids)


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


def _write_d2t(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    import torch

    return {out: torch_bytes(torch.from_numpy(to_map(ids, rows)[0]))}


def _write_pair(subset: VocabularySubset, ids: np.ndarray, rows: int, out: str) -> dict[str, bytes]:
    if Path(out).is_file():
        raise FrspecError(f"{out} is a file, but speculators reads a folder with d2t.npy and t2d.npy.")
    d2t, t2d = to_map(ids, rows)
    return {f"{out}/{name}": numpy_bytes(array) for name, array in zip(_PAIR, (d2t, t2d), strict=True)}


WRITERS = {
    "eagle3": Writer(_write_map, "id", ".eagle3.pt", order_is_fixed=True, holds_rows=True),
    "speculators": Writer(_write_pair, "id", ".speculators", order_is_fixed=True, holds_rows=True, folder_files=_PAIR),
    "modelopt": Writer(_write_d2t, "rank", ".d2t.pt"),
}
