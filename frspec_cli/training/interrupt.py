"""Ctrl-C that waits for the end of the step, so that what is saved is a whole step's state."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupt:
    """asked: whether Ctrl-C was pressed since `deferred` began."""

    asked = False


@contextmanager
def deferred(say: Callable[[str], None]) -> Iterator[Interrupt]:
    """Within, the first SIGINT only sets `asked` (and tells `say`); the second raises KeyboardInterrupt at once.

    Elsewhere than in the main thread, where Python hands out no signals, nothing is deferred.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def first(number: int, frame: object) -> None:
        interrupt.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say("stopping after this step; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, first)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
