"""Arrow data read in a process of its own: pyarrow trusts what it reads, and one wrong bit may end the process.

Every batch is checked in full before it is used (`arrow_child`); a process that dies all the same is reported with the
file's name, like any other damage.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from frspec_cli.corpus.streams import BrokenFile
from frspec_cli.errors import FrspecError, option

LENGTH_BYTES = 8
"""Before each message of `arrow_child`: how long it is, little-endian."""
_PROGRAM = "import sys; sys.path[:] = {path!r}; from frspec_cli.corpus.arrow_child import main; main()"
_CRASHES = {
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGILL,
    signal.SIGFPE,
    getattr(signal, "SIGBUS", signal.SIGSEGV),
}


def arrow_records(path: str, name: str, choose: Callable[[list[str]], list[str]]) -> Iterator[dict[str, Any] | None]:
    """The rows of a local Arrow file or stream; None for a row with text that is not UTF-8.

    name: the file, for messages.
    choose: the names of all columns -> those to be read.
    Raises `BrokenFile` if the data is damaged, and what `choose` raises.
    """
    with _child({"path": path}) as child:
        while True:
            match _receive(child, name):
                case ("columns", names):
                    _send(child, choose(names))
                case ("rows", records):
                    yield from records
                case ("broken", reason, byte):
                    raise BrokenFile(name, f"damaged Arrow data ({reason})", byte)
                case _:
                    return


def dataset_records(address: str, index: int, count: int, name: str) -> Iterator[dict[str, Any]]:
    """The rows of one of the `count` shards of a hub dataset that is kept as Arrow.

    address: as in `hub`.
    name: the shard, for messages.
    Raises `FrspecError` if it cannot be read.
    """
    with _child({"hub": address, "index": index, "count": count}) as child:
        while True:
            match _receive(child, name):
                case ("rows", records):
                    yield from records
                case ("broken", reason, _):
                    raise FrspecError(f"{name} cannot be read: {reason}.")
                case _:
                    return


@contextmanager
def _child(request: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads what is requested. It is ended with the block, wherever it is."""
    command = [sys.executable, "-c", _PROGRAM.format(path=sys.path)]
    # In a session of its own: Ctrl-C is this process's to handle. It ends with this process, when its pipes break.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as child:
        try:
            _send(child, request)
            yield child
        finally:
            child.kill()


def _send(child: subprocess.Popen[bytes], value: Any) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died; the next message, which does not come, will say so
        os.write(child.stdin.fileno(), json.dumps(value).encode() + b"\n")


def _receive(child: subprocess.Popen[bytes], name: str) -> tuple[Any, ...]:
    """The next message. Raises `BrokenFile` if the process crashed, `FrspecError` if it was ended."""
    assert child.stdout is not None
    header = child.stdout.read(LENGTH_BYTES)
    length = int.from_bytes(header, "little")
    data = child.stdout.read(length) if len(header) == LENGTH_BYTES else b""
    if length and len(data) == length:
        return pickle.loads(data)  # what our own process wrote
    code = child.wait()
    if -code in _CRASHES:
        reason = f"damaged Arrow data (reading it ended in {signal.Signals(-code).name})"
        raise BrokenFile(name, reason, 0)
    raise FrspecError(
        f"the process that reads {name} died (exit code {code}).",
        hint=f"Exit code -9 often means too little memory: try fewer {option('workers')}.",
    )
