"""How the library reports progress: callbacks that a command, a notebook or a test may set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Advance(Protocol):
    """Called with what has just been done, by unit: `advance(tokens=512)`."""

    def __call__(self, **amounts: int) -> None: ...


def _nothing(**amounts: int) -> None:
    pass


@dataclass(frozen=True)
class Callbacks:
    """Progress callbacks of one run; each does nothing by default.

    say: a sentence for the user.
    warn: a sentence that the user must see, for the result is not quite what was asked for.
    begin: the total amount of work ahead, in the unit that the function's docstring names.
    advance: work just done, by unit.
    finished: so many units are complete and saved, so that a killed run will not repeat them.
    """

    say: Callable[[str], None] = lambda text: None
    warn: Callable[[str], None] = lambda text: None
    begin: Callable[[int], None] = lambda total: None
    advance: Advance = _nothing
    finished: Callable[[int], None] = lambda count: None
