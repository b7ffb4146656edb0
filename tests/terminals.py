"""A terminal for tests: commands run in this process, and what a person would see is given back."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_END = b"\x00end\x00"


@contextmanager
def terminal(columns: int) -> Iterator[list[bytes]]:
    """Stdin, stdout and stderr of this process as a terminal; the list holds what it showed, once the block has ended."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        while not b"".join(shown[-2:]).endswith(_END):
            shown.append(os.read(master, 65536))

    reader = threading.Thread(target=read)
    reader.start()
    kept = [os.dup(number) for number in range(3)]
    try:
        for number in range(3):
            os.dup2(slave, number)
        with (
            open(1, "w", closefd=False) as out,
            open(2, "w", closefd=False) as err,
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            yield shown
    finally:
        for number, descriptor in enumerate(kept):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.write(slave, _END)
        reader.join()
        os.close(slave)
        os.close(master)


def on_terminal(columns: int, *arguments: Any) -> tuple[int, str]:
    """`frspec ARGUMENTS` on a terminal: (exit code, all that it showed, without colours and cursor movements)."""
    from frspec_cli.cli.app import main

    before, sys.argv, code = sys.argv, ["frspec", *map(str, arguments)], 0
    try:
        with terminal(columns) as shown:
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return code, ESCAPES.sub(b"", b"".join(shown).removesuffix(_END)).decode()
