"""`frspec merge`: frequency tables added up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frspec_cli import outputs, storage
from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.cli.tables import show_table
from frspec_cli.errors import UsageError


def command(
    tables: Annotated[list[Path], typer.Argument(metavar="TABLE...", help="Frequency tables of one tokenizer.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write.")],
    force: options.Force = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Add up frequency tables of one tokenizer, such as the parts of count-freq --shard I/N.

    The parts of one corpus give the same bytes as counting it in one run.
    """
    import time

    from frspec_cli.counting.merge import counted_twice, merge
    from frspec_cli.counting.table import FrequencyTable

    out = outputs.check(out, inputs=tables, replaces=outputs.PARQUET, what="a frequency table", force=force)
    output = Output(as_json=as_json, quiet=quiet, out=out)
    began = time.monotonic()
    _refuse_repeated(tables)
    names = [str(path) for path in tables]
    parts = [FrequencyTable.read(path) for path in tables]
    merged = merge(parts, names)
    for sentence in counted_twice(parts, names)[:8]:
        output.warn(sentence)
    with outputs.written(force=force) as done:
        merged.write(out)
    show_table(output, out, merged, time.monotonic() - began, done=done.line(out))


def _refuse_repeated(tables: list[Path]) -> None:
    """Raises `UsageError` if two of the tables are the same file, or have the same bytes."""
    first: dict[str, Path] = {}
    for path in tables:
        if path.is_file() and first.setdefault(storage.sha256_file(path), path) is not path:
            before = first[storage.sha256_file(path)]
            again = "is given twice" if before == path else f"holds the same table as {before}"
            raise UsageError(f"{path} {again}: its text would count twice.")
