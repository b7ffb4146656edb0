"""`frspec inspect`: what a file or folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.errors import as_flags


def command(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A table, subset, head, answers, result, or another project's vocabulary."),
    ],
    as_json: options.AsJson = False,
) -> None:
    """Say what a file or folder is: any artifact of frspec or of other projects, recognised by what it holds."""
    from frspec_cli.inspection import describe

    output = Output(as_json=as_json)
    value = describe(path)
    if as_json:
        output.json(value)
        return
    output.data(f"{path}: {value['kind']}")
    for name, each in value.items():
        if name != "kind":
            _show(output, name, each, 1)


_DEEPEST = 12  # levels that are shown of a foreign file


def _show(output: Output, name: str, value: Any, depth: int) -> None:
    indent, most = "  " * depth, 40
    if isinstance(value, dict) and {"shape", "dtype"} == value.keys() and isinstance(value["shape"], list):
        output.data(f"{indent}{name}: {' x '.join(map(str, value['shape']))} {value['dtype']}")
    elif isinstance(value, dict) and {"value", "low", "high"} == value.keys():
        output.data(f"{indent}{name}: {_plain(value['value'])} ({_plain(value['low'])} to {_plain(value['high'])})")
    elif isinstance(value, (dict, list)) and value and depth > _DEEPEST:
        output.data(f"{indent}{name}: ...")
    elif isinstance(value, dict) and value:
        output.data(f"{indent}{name}:")
        for key, each in _in_order(value)[:most]:
            _show(output, str(key), each, depth + 1)
        if len(value) > most:
            output.data(f"{indent}  ... and {len(value) - most} more")
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        if all(isinstance(each, dict) and {"id", "token"} == each.keys() for each in value):
            tokens = ", ".join(f"{each['id']} {each['token']!r}" for each in value)
            output.data(f"{indent}{name}: {tokens}")
        else:
            for index, each in enumerate(value[:most]):
                _show(output, f"{name} {index + 1}", each, depth)
    else:
        output.data(f"{indent}{name}: {_plain(value)}")


def _in_order(value: dict[str, Any]) -> list[tuple[str, Any]]:
    """The items; numbers, which JSON has as text, by size."""
    return sorted(value.items(), key=lambda item: int(item[0])) if all(map(str.isdigit, value)) else list(value.items())


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return as_flags(", ".join(map(str, value)) or "-")
    return as_flags(str(value))
