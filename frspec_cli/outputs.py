"""The one guard of outputs: an output never destroys what this command did not make.

`check` is called before any work. It refuses an output that is an input, that holds one or that is a part of one, that is of
another kind than what would be written, or that cannot be written. Devices and pipes are written to, not replaced
(`storage.is_stream`); symlinks stay and their targets are replaced (`storage.followed`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from frspec_cli import storage
from frspec_cli.errors import FrspecError, option

STDOUT = Path("/dev/stdout")
_LONGEST_NAME = 200
"""Bytes: a file system takes 255, of which temporary files and run folders need some for their suffixes."""


def check(
    out: Path | str,
    *,
    inputs: Iterable[Path | str | None] = (),
    kind: Literal["file", "folder"] = "file",
    replaces: Callable[[Path], bool] | None = None,
    what: str = "",
    name: str = "out",
) -> Path:
    """The path to write to, with `~` expanded and `-` as stdout. Creates nothing.

    out: as the user gave it.
    inputs: files and folders that the command reads; names of other things (a hub id, None) are ignored.
    kind: what is written. A folder is replaced as a whole.
    replaces: whether an existing file or folder is of the kind that is written; None: any file, no folder but an empty one.
    what: that kind in words, such as "a draft head".
    name: the parameter that the user gave.

    Raises `FrspecError` if it must not or cannot be written.
    """
    given = f"{option(name)} {out}"
    path = STDOUT if str(out) == "-" and kind == "file" else Path(os.path.expanduser(out))
    other = f"Choose another {option(name)}."
    try:
        if reason := _unwritable(path, kind) or _harm(path, inputs, replaces, what):
            raise FrspecError(f"{given} {reason}.", hint=other)
    except (OSError, ValueError) as error:  # a loop of symlinks, a working directory that was removed, odd characters
        reason = getattr(error, "strerror", None) or str(error)
        raise FrspecError(f"{given} cannot be written: {reason}.", hint=other) from error
    return path


def is_stdout(path: Path) -> bool:
    """Whether `path` is this process's stdout, so that nothing else may be written there."""
    return path in (STDOUT, Path("/dev/fd/1"), Path("/proc/self/fd/1"))


def starts_with(*signatures: bytes) -> Callable[[Path], bool]:
    """A `replaces` for files that begin with one of the signatures (empty files may always be replaced)."""

    def matches(path: Path) -> bool:
        with open(path, "rb") as file:
            return file.read(max(map(len, signatures))).startswith(signatures)

    return matches


PARQUET = starts_with(b"PAR1")
"""Tables and subsets."""
JSON = starts_with(b"{")
"""Results."""
ANSWERS = starts_with(b"{", b"\x28\xb5\x2f\xfd")
"""JSON lines, plain or as zstandard."""


def _unwritable(path: Path, kind: str) -> str:
    """Why nothing can be written there; empty if it can."""
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        return f"has a name of more than {_LONGEST_NAME} bytes"
    if path.is_dir() and kind == "file":
        return "is a folder, and a file is written: give a file's name"
    if _exists(path) and not path.is_dir():
        if storage.is_stream(path):
            return _unwritable_stream(path, kind)
        if kind == "folder":
            return "is a file, and a folder is written: give a folder's name"
    folder = storage.followed(path).parent
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if not existing.is_dir():
        return f"cannot be written: {existing} is a file, not a folder"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"cannot be written: {existing} is read-only"
    return ""


def _unwritable_stream(path: Path, kind: str) -> str:
    mode = os.stat(path).st_mode
    if kind == "folder":
        return "is a device or a pipe, and a folder is written: give a folder's name"
    if stat.S_ISBLK(mode):
        return "is a disk"
    if stat.S_ISSOCK(mode):
        return "is a socket"
    return "" if os.access(path, os.W_OK) else "cannot be written: permission denied"


def _harm(path: Path, inputs: Iterable[Path | str | None], replaces: Callable[[Path], bool] | None, what: str) -> str:
    """What would be lost by writing there; empty if nothing."""
    if not _exists(path) or storage.is_stream(path):
        return ""
    target, is_own = storage.followed(path), _empty(path) or (replaces is not None and replaces(path))
    for each in inputs:
        if each is None or not os.path.exists(source := Path(os.path.expanduser(each))):
            continue
        if source.samefile(path):
            return "is an input"
        if storage.followed(source).is_relative_to(target):
            return f"holds the input {each}"
        if target.is_relative_to(storage.followed(source)) and not is_own:
            return f"is a part of the input {each}"
    if is_own or (replaces is None and path.is_file()):
        return ""
    return f"exists and is not {what}"


def _exists(path: Path) -> bool:
    """Like `Path.exists`, but raises the OSError of a loop of symlinks or of a name that is too long."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _empty(path: Path) -> bool:
    return not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
