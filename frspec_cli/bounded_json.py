"""JSON text to values that are not nested deeper than whatever walks over them later can follow.

Python's reader stops at about a thousand levels, its limit of recursion, and so does everything that writes, shows or copies
the value: what one still reads, another may not. So the bound is far below, and is checked where a value is read.
"""

from __future__ import annotations

import json
from typing import Any

MOST_LEVELS = 200


class TooDeep(ValueError):
    """A value with more than `MOST_LEVELS` levels."""

    def __init__(self) -> None:
        super().__init__("nested too deeply")


def loads(text: bytes | str) -> Any:
    """The JSON value in a text. Raises ValueError if it is not valid JSON, `TooDeep` if it is nested too deeply."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise TooDeep from None
    check_depth(value, text)
    return value


def check_depth(value: Any, text: bytes | str) -> None:
    """Raises `TooDeep` if a value, which was read from `text`, is nested too deeply. Few texts have as many brackets."""
    if (
        text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    ) <= MOST_LEVELS:
        return
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MOST_LEVELS):
        parts = (part for each in level for part in (each.values() if isinstance(each, dict) else each))
        level = [part for part in parts if isinstance(part, (dict, list))]
        if not level:
            return
    raise TooDeep
