"""What all functions of the API share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from frspec_cli.errors import AlreadyThere
from frspec_cli.progress import Callbacks

PathLike = str | Path
Result = dict[str, Any]
"""A result as its JSON file holds it."""


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


CALLBACKS = Callbacks(warn=_warn)
"""What a user must see is a Python warning unless other callbacks are given."""


def made_or_read(run: Callable[[], Result], path: Path) -> Result:
    """The result of a run, or the one that is there already, made from the same inputs."""
    from frspec_cli.schema import read_object

    try:
        return run()
    except AlreadyThere:
        return read_object(path)
