"""Files that appear whole or not at all, hashes of what is in them, and the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from frspec_cli.errors import FrspecError

LOCK = "lock"
"""The file by which a process claims a folder."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what is written there takes `path`'s place when the block ends well.

    The data is on the disk (fsync) before the name is; if the block raises, the temporary file goes and `path` stays as
    it was. Raises `FrspecError` when the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    with _plain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Like `atomic_path` for a folder: `path` appears with all its files, or not at all.

    An existing folder at `path` is replaced. When two processes finish at once, one of the two (equal) folders stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    with _plain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                _sync(file)
            _sync(temporary)
            replaced = temporary.with_suffix(".old")
            if path.is_dir():
                os.replace(path, replaced)
            os.replace(temporary, path)
            _sync(path.parent)
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def claim_folder(folder: Path, taken: str) -> IO[str]:
    """Makes `folder` if need be and takes it for this process, until the returned lock file is closed or the process ends.

    taken: the sentence for the `FrspecError` where another process has it. Raises one too where the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a")  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        raise FrspecError(
            f"{folder} cannot be written: {error.strerror or error}.", hint="Choose another --out."
        ) from error
    try:
        import fcntl
    except ImportError:  # no such lock on Windows: two runs at once are then not noticed
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise FrspecError(taken, hint="Wait for it, or choose another --out.") from None
    return lock


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Writes `text` to `path` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` to `path` atomically, as indented JSON in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The JSON value in `path`. Raises `FrspecError` where the file is missing or is no JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except (OSError, ValueError) as error:
        raise FrspecError(f"{path} cannot be read as JSON: {error}.") from None


def sha256_file(path: Path | str) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_ids(ids: Any) -> str:
    """Hex sha256 of token ids in their order, each as a little-endian int64."""
    return hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest()


def cache_folder() -> Path:
    """`$FRSPEC_CACHE`, else the user's cache folder for frspec. Not created here."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("FRSPEC_CACHE") or user_cache_dir("frspec")).expanduser().absolute()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _plain_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(path.parent)):
            raise
        reason = error.strerror or str(error)
        if path.is_dir():
            reason = "it is a folder"
        elif blocking := next((each for each in path.parents if each.is_file()), None):
            reason = f"{blocking} is a file, not a folder"
        raise FrspecError(
            f"{path} cannot be written: {reason}.", hint="Choose another --out, or make room and try again."
        ) from error
