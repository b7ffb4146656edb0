"""Ctrl-C that waits for the end of the step, so that a whole step's state is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupt:
    """pressed: whether Ctrl-C was pressed since `deferred` began."""

    pressed = False


@contextmanager
def deferred(say: Callable[[str], None]) -> Iterator[Interrupt]:
    """Within the block, the first SIGINT only sets `pressed` and calls `say`; the second raises KeyboardInterrupt at once.

    Outside the main thread, where Python delivers no signals, nothing is deferred.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def first(number: int, frame: object) -> None:
        interrupt.pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say("stopping after this step; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, first)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
