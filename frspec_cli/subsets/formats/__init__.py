"""Other projects' draft-vocabulary files, one file a family with its reading and its writing.

To add a family, copy `torch_list.py`: a `read` that returns None for what is not its own, `WRITERS`, and a line in each of
the two tables below. Files are told apart by what they hold, never by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from frspec_cli.errors import FrspecError, UsageError, option
from frspec_cli.subsets.formats import eagle3, plain, token_freq, torch_list
from frspec_cli.subsets.formats.base import AS_IDS, AS_OFFSETS, ForeignList, Writer
from frspec_cli.subsets.formats.content import INSPECT, Content, open_content

READERS: dict[str, Callable[[Content, str | None], ForeignList | None]] = {
    "eagle3": eagle3.read,  # first: a lone array is a list of ids only if it is neither offsets nor a mask
    "token_freq": token_freq.read,
    "torch_list": torch_list.read,
    "plain": plain.read,
}
"""Asked in this order; the first that knows the content reads it."""

WRITERS: dict[str, Writer] = {**torch_list.WRITERS, **eagle3.WRITERS, **token_freq.WRITERS, **plain.WRITERS}
"""What `export-vocab --to` knows."""


def read_foreign(path: Path | str, *, read_as: str | None = None) -> ForeignList:
    """The ids in a foreign file, or in a folder with d2t.npy and t2d.npy or an EAGLE-3 head.

    read_as: `ids` or `offsets` if the file could mean either. Raises `FrspecError` saying why a file is refused.
    """
    if read_as not in (None, AS_IDS, AS_OFFSETS):
        raise UsageError(f"{option('as')} {read_as} is neither ids nor offsets.")
    content = open_content(path)
    for family, read in READERS.items():
        if (entries := read(content, read_as)) is not None:
            if read_as == AS_OFFSETS and family != "eagle3":
                raise FrspecError(f"{content.name} is recognised as {entries.format}, which cannot hold offsets.")
            return entries
    raise _unknown(content)


def _unknown(content: Content) -> FrspecError:
    value: Any = content.value
    if content.container == "safetensors":
        return FrspecError(f"{content.name} holds tensors, but no d2t and no t2d.", hint=INSPECT)
    if not isinstance(value, dict):
        return FrspecError(f"{content.name} holds a {type(value).__name__}, which is not a draft vocabulary.")
    keys = ", ".join(map(str, list(value)[:5])) + (", ..." if len(value) > 5 else "")
    an_eagle_head = "An EAGLE-1/2 head carries no vocabulary: its subset is a file of its own."
    return FrspecError(
        f"{content.name} holds a dictionary ({keys}) without d2t, t2d or counts by token id.",
        hint=an_eagle_head if "fc.weight" in value else "",
    )
