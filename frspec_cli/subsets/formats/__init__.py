"""Other projects' draft-vocabulary files, one file a family with its reading and its writing.

To add a family, copy `torch_list.py`: a `read` that returns None for what is not its own, `WRITERS`, and a line in each of
the two tables below. Files are told apart by what they hold, never by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from frspec_cli.errors import FrspecError, UsageError, option
from frspec_cli.subsets.formats import (
    eagle3,
    gguf_file,
    nemo,
    plain,
    ranges,
    tensorrt_edge,
    text,
    token_freq,
    torch_list,
)
from frspec_cli.subsets.formats.base import AS_IDS, READINGS, ForeignList, Writer
from frspec_cli.subsets.formats.content import INSPECT, Content, open_content
from frspec_cli.subsets.formats.folder import file_in

READERS: dict[str, Callable[[Content, str | None], ForeignList | None]] = {
    "gguf": gguf_file.read,
    "nemo": nemo.read,
    "tensorrt_edge": tensorrt_edge.read,
    "ranges": ranges.read,
    "eagle3": eagle3.read,  # before lists: a lone array is a list of ids only if it is neither offsets nor a mask
    "token_freq": token_freq.read,
    "torch_list": torch_list.read,
    "text": text.read,
    "plain": plain.read,
}
"""Asked in this order; the first that knows the content reads it."""

WRITERS: dict[str, Writer] = {
    **torch_list.WRITERS,
    **eagle3.WRITERS,
    **token_freq.WRITERS,
    **nemo.WRITERS,
    **tensorrt_edge.WRITERS,
    **gguf_file.WRITERS,
    **plain.WRITERS,
    **text.WRITERS,
    **ranges.WRITERS,
}
"""What `export-vocab --to` knows."""


def read_foreign(path: Path | str, *, read_as: str | None = None) -> ForeignList:
    """The ids in a foreign file, or in a folder with a map under its project's name or an EAGLE-3 head.

    read_as: `ids`, `offsets` or `ranges` if the file could mean more than one; without it `otherwise` holds the other.
    Raises `FrspecError` saying why a file is refused.
    """
    if read_as not in (None, *READINGS):
        raise UsageError(f"{option('as')} {read_as} is neither ids nor offsets nor ranges.")
    content = open_content(file_in(Path(path)) if Path(path).is_dir() else path)
    for read in READERS.values():
        if (entries := read(content, read_as)) is not None:
            if read_as not in (None, AS_IDS, entries.reading):
                raise FrspecError(f"{content.name} is recognised as {entries.format}, which cannot hold {read_as}.")
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
