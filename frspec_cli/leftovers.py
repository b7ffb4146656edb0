"""Temporary files and folders beside what they will replace, and what killed processes left of them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import sys
import uuid
from pathlib import Path

REPLACED = ".old"
"""Ends the name of a folder that was moved away so that another can take its place."""


def temporary(path: Path, suffix: str = ".tmp") -> Path:
    """A new name beside `path` that says which process uses it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{machine()}{uuid.uuid4().hex[:4]}{suffix}")


@functools.cache
def machine() -> str:
    """Four hex digits that tell machines (and containers) apart: a process id means something only on its own."""
    with contextlib.suppress(OSError):
        return hashlib.sha256(f"{platform.node()} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:4]
    return hashlib.sha256(platform.node().encode()).hexdigest()[:4]


def clear(path: Path, *, held: bool = False) -> None:
    """Removes what killed processes of this machine left beside `path` while they wrote it.

    A folder that was about to be replaced goes back to its place if there is none now.
    held: this process holds a lock without which `path` is not written, so that whoever began is gone, on any machine.
    """
    if sys.platform == "win32" and not held:  # where asking whether a process is alive may end it
        return
    where = "[0-9a-f]{4}" if held else machine()
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d{{1,9}})-{where}[0-9a-f]{{4}}(\.tmp|{re.escape(REPLACED)})")
    with os.scandir(path.parent) as entries:
        matches = [(Path(entry.path), match) for entry in entries if (match := name.fullmatch(entry.name))]
    for leftover, match in matches:
        if not held and _is_running(int(match[1])):
            continue
        with contextlib.suppress(OSError):  # another process clears it too
            if match[2] == REPLACED and not path.exists():
                leftover.rename(path)
            elif leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    return True
