"""The one guard of outputs: an output never destroys what this command did not make.

`check` is called before any work. It refuses an output that is an input, that holds one or that is a part of one, that is of
another kind than what would be written, or that cannot be written. Devices and pipes are written to, not replaced
(`storage.is_stream`); symlinks stay and their targets are replaced (`storage.followed`).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    force: bool = False,
) -> Path:
    """The path to write to, with `~` expanded and `-` as stdout. Creates nothing.

    out: as the user gave it.
    inputs: files and folders that the command reads; names of other things (a hub id, None) are ignored.
    kind: what is written. A folder is replaced as a whole.
    replaces: whether an existing file or folder is of the kind that is written; None: any file, no folder but an empty one.
    what: that kind in words, such as "a draft head".
    name: the parameter that the user gave.
    force: a file of another kind may be replaced. Inputs and folders of another kind never are.

    Raises `FrspecError` if it must not or cannot be written.
    """
    given = f"{option(name)} {out}"
    path = STDOUT if str(out) == "-" and kind == "file" else Path(os.path.expanduser(out))
    other = f"Choose another {option(name)}."
    try:
        if reason := _unwritable(path, kind) or _harm(path, inputs, replaces):
            raise FrspecError(f"{given} {reason}.", hint=other)
        if not _may_be_replaced(path, replaces) and not (force and path.is_file()):
            hint = f"{option('force')} replaces it; or choose another {option(name)}." if path.is_file() else other
            raise FrspecError(f"{given} exists and is not {what}.", hint=hint)
        endings, suffix = _ENDINGS.get(replaces, ()) if replaces else (), path.suffix.lower()
        if endings and suffix in _OTHERS and suffix not in endings:
            raise FrspecError(f"{given} is named {path.suffix}, and {what} is written: end its name in {endings[0]}.")
        if replaces is PARQUET and is_stdout(path) and sys.stdout.isatty():
            raise FrspecError(f"{given} is the terminal, and {what} is not text.", hint=other)
    except (OSError, ValueError) as error:  # a loop of symlinks, a working directory that was removed, odd characters
        reason = getattr(error, "strerror", None) or str(error)
        raise FrspecError(f"{given} cannot be written: {reason}.", hint=other) from error
    return path


@dataclass
class Written:
    """What became of the files that a block wrote (see `written`)."""

    unchanged: set[Path] = field(default_factory=set)

    def line(self, *paths: Path | str) -> str:
        """The closing sentence on the files or folders that were asked for."""
        names = ", ".join(map(str, paths))
        done = all(self._holds(storage.followed(path)) for path in paths)
        return f"{names}: complete already, made from the same inputs" if done else f"wrote {names}"

    def _holds(self, path: Path) -> bool:
        files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
        return path in self.unchanged or (bool(files) and all(file in self.unchanged for file in files))


@contextmanager
def written(*, force: bool) -> Iterator[Written]:
    """For commands that take moments: what they write may be there already, with the very same bytes.

    force: replace whatever is there. Otherwise raises `FrspecError` for a file or folder that differs, which stays.
    """
    if force:
        yield Written()
        return
    with storage.keeping_existing() as unchanged:
        yield Written(unchanged)


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
_ENDINGS = {PARQUET: (".parquet",), JSON: (".json",), ANSWERS: (".jsonl", ".zst", ".ndjson")}
_OTHERS = (".csv", ".tsv", ".txt", ".md", ".html", ".json", ".jsonl", ".parquet", ".pt", ".safetensors", ".npy", ".gz")
"""What names of these kinds end in, and names that promise something: any other name is the user's own choice."""


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


def _harm(path: Path, inputs: Iterable[Path | str | None], replaces: Callable[[Path], bool] | None) -> str:
    """Which input would be lost by writing there; empty if none."""
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
    return ""


def _may_be_replaced(path: Path, replaces: Callable[[Path], bool] | None) -> bool:
    """Whether nothing is there, or something of the kind that is written."""
    if not _exists(path) or storage.is_stream(path) or _empty(path):
        return True
    return path.is_file() if replaces is None else replaces(path)


def _exists(path: Path) -> bool:
    """Like `Path.exists`, but raises the OSError of a loop of symlinks or of a name that is too long."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _empty(path: Path) -> bool:
    return not any(path.iterdir()) if path.is_dir() else path.stat().st_size == 0
