"""One trial: a process of its own, in which frspec may crash, hang or ask for all memory."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from frspec_cli.errors import FrspecError

SECONDS = 60
"""After which a trial hangs."""
MEMORY = 6 << 30
"""Bytes of address space that a trial may ask for beyond what it begins with."""
COUNT = ("--encoder", "reference", "--workers", 1)
CPU = ("--device", "cpu", "--dtype", "float32")
TRAIN = (*CPU, "--epochs", 2, "--batch-tokens", 48, "--steps", 2, "--sampled-rows", 16, "--threads", 1)

Trial = Callable[[], str]
"""Runs one trial; returns what was wrong, "" if nothing. Known errors (`FrspecError`) are fine, any other is not."""
Trials = Iterator[tuple[str, Trial]]
"""(name, trial)"""


def in_a_process(trial: Trial, *, seconds: int = SECONDS, memory: int | None = MEMORY) -> str:
    """Runs a trial in a fork; what was wrong, "" if nothing."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _isolate(seconds, memory)
        try:
            reason = trial()
        except FrspecError:
            reason = ""
        except BaseException as error:
            reason = f"a traceback: {traceback.format_exception_only(error)[-1].strip()}{_place(error)}"
        os.write(write, reason.encode("utf-8", "backslashreplace")[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        reason = pipe.read().decode("utf-8", "replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status == -signal.SIGALRM:
        return f"not done after {seconds} seconds"
    return reason or ("" if status == 0 else f"it died of {signal.Signals(-status).name}")


def _isolate(seconds: int, memory: int | None) -> None:
    """A session of its own, silence, a time limit and, if there is one, a memory limit."""
    os.setsid()
    faulthandler.disable()
    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(devnull, stream)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    if memory is None:
        return
    with contextlib.suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, resource.RLIM_INFINITY))


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "frspec_cli" in frame.filename] or frames
    return f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""


def run(*arguments: object) -> int:
    """`frspec ARGUMENTS` in this process; its exit code. What is no known error is raised."""
    from frspec_cli.cli.app import main as command

    sys.argv = ["frspec", *map(str, arguments)]
    try:
        command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def command(*arguments: object) -> list[str]:
    """`frspec ARGUMENTS` as a process."""
    return [sys.executable, "-m", "frspec_cli", *map(str, arguments)]


def each(usual: int, share: float) -> range:
    """The numbers of the trials, of which there are `usual` at a share of 1, and at least one."""
    return range(max(1, round(usual * share)))


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory(prefix="frspec-trial-") as folder:
        yield Path(folder)
