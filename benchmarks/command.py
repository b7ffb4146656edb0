"""What the benchmarks share that make a result file and a table of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from frspec_cli import outputs, storage
from frspec_cli.errors import FrspecError, as_flags


def run_and_show(
    parse: Callable[[], Any],
    run: Callable[[Any], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    *,
    name: str,
) -> dict[str, Any] | int:
    """Measures, shows the table, and writes NAME.json and NAME.md into the folder `out` of the options.

    Returns the result; for an error of the user's, which is told on stderr, the exit code that `frspec` has for it.
    """
    try:
        options = parse()
        out: Path = options.out
        for suffix in ("json", "md"):
            outputs.check(out / f"{name}.{suffix}")
        result = run(options)
    except FrspecError as error:
        sys.stderr.write(f"error: {as_flags(error.message)}\n")
        return error.exit_code
    text = table(result)
    sys.stdout.write(text)
    storage.write_json(out / f"{name}.json", result)
    storage.write_text(out / f"{name}.md", text)
    sys.stderr.write(f"wrote {out / name}.json\n")
    return result
