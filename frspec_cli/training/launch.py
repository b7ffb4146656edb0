"""`train-draft --processes N`: the same command in N processes on this machine, which train together.

What torchrun does, without its options. Ctrl-C reaches every rank once; when one rank fails the others are ended, and
the first to fail says why.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO, Any

from frspec_cli.training.ranks import LAUNCHER

_PATIENCE = 5.0  # seconds that ranks get to end by themselves once another has failed


def launched() -> bool:
    """Whether this process is one of several ranks already."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(arguments: list[str], processes: int) -> int:
    """Runs `frspec ARGUMENTS` as `processes` ranks; the exit code is rank 0's, or that of the rank that failed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = max(1, (os.cpu_count() or 1) // processes)
    common = {"OMP_NUM_THREADS": str(threads)} | os.environ
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    common |= {"LOCAL_WORLD_SIZE": str(processes), LAUNCHER: str(os.getpid())}
    errors: list[IO[Any] | None] = [None, *(tempfile.TemporaryFile() for _ in range(1, processes))]  # noqa: SIM115
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "frspec_cli", *arguments],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=errors[rank],
            start_new_session=True,  # Ctrl-C in the terminal comes through here, once
        )
        for rank in range(processes)
    ]

    def pass_on(number: int, frame: object) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _wait(ranks, errors)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for rank in ranks:
            rank.kill()


def _wait(ranks: list[subprocess.Popen[bytes]], errors: list[IO[Any] | None]) -> int:
    while all(rank.poll() in (None, 0) for rank in ranks) and any(rank.poll() is None for rank in ranks):
        time.sleep(0.05)
    if not any(rank.returncode for rank in ranks):
        return 0
    first = next(index for index, rank in enumerate(ranks) if rank.returncode)
    deadline = time.monotonic() + _PATIENCE
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    if ranks[0].returncode:
        return _code(ranks[0].returncode)
    told = errors[first]
    if told is not None:
        told.seek(0)
        sys.stderr.write(told.read().decode(errors="replace"))
    return _code(ranks[first].returncode)


def _code(returncode: int) -> int:
    """An exit code; for a signal 128 more, as shells say it."""
    return returncode if returncode > 0 else 128 - returncode
