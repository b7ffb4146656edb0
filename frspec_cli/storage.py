"""Files that appear whole or not at all, locks between processes, hashes, and the cache folder."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import json
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from frspec_cli import bounded_json, leftovers
from frspec_cli.errors import FrspecError, option

LOCK = "lock"
"""The file by which a process claims a folder."""

_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what is written there takes `path`'s place when the block ends well.

    The data is on the disk (fsync) before the name is; if the block raises, the temporary file goes and `path` stays as
    it was. What killed writers of `path` left beside it is removed first. A symlink stays: the file that it points to is
    replaced. A stream (see `is_stream`) gets the bytes written to it.
    Raises `FrspecError` if the folder cannot be written to or the disk is full.
    """
    if is_stream(path):
        with _plain_os_errors(Path(path)), tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / Path(path).name
            yield temporary
            place(temporary, path)
        return
    target = followed(path)
    temporary = leftovers.temporary(target)
    with _plain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        leftovers.clear(target)
        try:
            yield temporary
            place(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def write_together(files: Mapping[Any, bytes]) -> None:
    """Writes several files that belong together: all are on the disk before the first appears, in the order given.

    If one cannot be written, none appears and those that were there stay. Raises `FrspecError` like `atomic_path`.
    """
    new = [folder for folder in {followed(path).parent for path in files} if not folder.exists()]
    try:
        with contextlib.ExitStack() as waiting:  # the last file opened is the first to take its place
            for path, data in reversed(list(files.items())):
                temporary = waiting.enter_context(atomic_path(path))
                temporary.write_bytes(data)
                _sync(temporary)
    except BaseException:
        for folder in new:
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()
        raise


def place(written: Path, path: Path | str) -> None:
    """Puts the file `written` where `path` is, as `atomic_path` does: moved if on the same disk, copied into a stream.

    Raises `FrspecError` if it cannot be written, but leaves a reader that went away (BrokenPipeError) to the caller.
    """
    if is_stream(path):
        with _plain_os_errors(Path(path)), open(written, "rb") as source, open(path, "ab") as stream:
            shutil.copyfileobj(source, stream)
        return
    target = followed(path)
    with _plain_os_errors(target):
        if _stays(written, target):
            written.unlink()
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _sync(written)
        try:
            os.replace(written, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with atomic_path(target) as beside:  # a symlink to another disk
                shutil.copyfile(written, beside)
        _sync(target.parent)


_unchanged: ContextVar[set[Path] | None] = ContextVar("_unchanged", default=None)
"""While existing files are kept: those that were there already, with the bytes that were to be written."""


@contextmanager
def keeping_existing() -> Iterator[set[Path]]:
    """In the block no file or folder is replaced by another: equal bytes leave it alone, others raise `FrspecError`.

    Yields the set of those that were left alone.
    """
    unchanged: set[Path] = set()
    token = _unchanged.set(unchanged)
    try:
        yield unchanged
    finally:
        _unchanged.reset(token)


def _stays(written: Path, target: Path) -> bool:
    """Whether `target` stays as it is, for it equals `written`. Raises `FrspecError` if it must stay and differs."""
    unchanged = _unchanged.get()
    if unchanged is None or not target.exists() or (target.is_file() and not target.stat().st_size):
        return False
    if not _equal(written, target):
        raise FrspecError(
            f"{target} exists and is not what this command makes of its inputs.",
            hint=f"{option('force')} replaces it; or choose another {option('out')}.",
        )
    unchanged.add(target)
    return True


def _equal(one: Path, other: Path) -> bool:
    """Whether two files, or the files of two folders, hold the same bytes."""
    if one.is_file():
        return other.is_file() and filecmp.cmp(one, other, shallow=False)
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (one, other)]
    pairs = [(one / name, other / name) for name in files[0]]
    return files[0] == files[1] and all(_equal(*pair) for pair in pairs if pair[0].is_file())


def followed(path: Path | str) -> Path:
    """The absolute path that `path` means, with `~` expanded and symlinks followed."""
    return Path(os.path.realpath(os.path.expanduser(path)))


def is_stream(path: Path | str) -> bool:
    """Whether `path` is a device, a pipe or a socket, or this process's stdout by name: written to, never replaced."""
    path = Path(os.path.expanduser(path))
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    if stat.S_ISREG(mode):  # a file that the shell opened as this process's stdout must not be replaced under its hands
        return path.is_relative_to("/proc") or (path.is_relative_to("/dev") and not path.is_relative_to("/dev/shm"))
    return not stat.S_ISDIR(mode)


@contextmanager
def atomic_folder(path: Path | str, *, keep_existing: bool = False) -> Iterator[Path]:
    """Like `atomic_path` for a folder: `path` appears with all its files, or not at all.

    keep_existing: a folder that is already at `path` stays, for folders whose path says what they hold: another process
        may be reading it. Otherwise it is replaced; of two processes that finish together, the later one's folder stays.
        Files that a reader has open stay readable, but for an instant there is no folder at `path`.
    """
    path = followed(path)
    temporary = leftovers.temporary(path)
    with _plain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        leftovers.clear(path)
        try:
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                _sync(file)
            _sync(temporary)
            if not keep_existing and _stays(temporary, path):
                return
            _move_folder(temporary, path, keep_existing=keep_existing)
            _sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _move_folder(temporary: Path, path: Path, *, keep_existing: bool) -> None:
    replaced: list[Path] = []
    while True:
        try:
            os.rename(temporary, path)  # takes the place of nothing, or of an empty folder
            break
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise
        if keep_existing:
            return
        replaced.append(leftovers.temporary(path, leftovers.REPLACED))
        with contextlib.suppress(FileNotFoundError):  # another process is replacing it too
            os.rename(path, replaced[-1])
    for folder in replaced:  # only now: until the new folder is there, the old one must be whole
        shutil.rmtree(folder, ignore_errors=True)


def claim_folder(folder: Path, taken: str) -> IO[str]:
    """Creates `folder` if needed and locks it for this process, until the returned file is closed or the process ends.

    taken: the sentence of the `FrspecError` if another process holds the lock.
    Also raises one if the folder cannot be created. Where the filesystem has no locks, warns and locks nothing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "a", encoding="utf-8")  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        reason = error.strerror or error
        raise FrspecError(f"{folder} cannot be written: {reason}.", hint=f"Choose another {option('out')}.") from error
    if not _lock(lock, wait=False):
        lock.close()
        raise FrspecError(taken, hint=f"Wait for it, or choose another {option('out')}.")
    return lock


@contextmanager
def exclusive(name: str, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock `name` of the cache folder, so that one process at a time runs the block.

    waiting: called if another process holds the lock, before waiting for it.
    """
    path = cache_folder() / "locks" / f"{name}.lock"
    with _plain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed below)
    with lock:
        if not _lock(lock, wait=False):
            waiting()
            _lock(lock, wait=True)
        yield


def _lock(file: IO[str], *, wait: bool) -> bool:
    """Whether this process now holds the lock, or there are no locks here; False if another process holds it."""
    try:
        import fcntl
    except ImportError:  # there is no such lock on Windows: two runs at once are then not noticed
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise FrspecError(f"{file.name} cannot be locked: {error.strerror or error}.") from error
        warnings.warn(
            f"the filesystem of {file.name} has no locks: do not run two processes on the same files there.",
            RuntimeWarning,
            stacklevel=3,
        )
    return True


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Writes `text` to `path` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def append_text(path: Path | str, text: str) -> None:
    """Adds `text` at the end of the file `path`, as UTF-8. Raises `FrspecError` if it cannot be written."""
    with _plain_os_errors(followed(path)), open(path, "a", encoding="utf-8") as file:
        file.write(text)


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` to `path` atomically, as indented JSON in the order given."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """`value` as indented JSON. A byte of a file's name that is not UTF-8 is written as JSON's escape, such as \\udcff."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def read_json(path: Path | str) -> Any:
    """The JSON value in `path`. Raises `FrspecError` if the file is missing, or is not valid JSON or nested too deeply."""
    try:
        return bounded_json.loads(Path(path).read_bytes())
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
    import numpy as np

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
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(path.parent)):
            raise
        reason = error.strerror or str(error)
        if isinstance(error, IsADirectoryError):
            reason = "it is a folder"
        elif isinstance(error, NotADirectoryError) and path.is_file():
            reason = "it is a file, not a folder"
        elif blocking := next((each for each in path.parents if each.is_file()), None):
            reason = f"{blocking} is a file, not a folder"
        other = (
            "Set FRSPEC_CACHE to another folder"
            if path.is_relative_to(cache_folder())
            else f"Choose another {option('out')}"
        )
        raise FrspecError(
            f"{path} cannot be written: {reason}.", hint=f"{other}, or free space and try again."
        ) from error
