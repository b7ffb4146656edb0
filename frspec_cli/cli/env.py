"""`frspec env`: versions and devices, for a bug report."""

from __future__ import annotations

from frspec_cli.cli import options
from frspec_cli.cli.output import Output


def command(as_json: options.AsJson = False) -> None:
    """Show versions, processor, devices and folders, for a bug report."""
    from frspec_cli.environment import environment

    output = Output(as_json=as_json)
    values = environment()
    if as_json:
        output.json(values)
        return
    for key, value in values.items():
        output.data(f"{key:<16} {' '.join(map(str, value)) if isinstance(value, list) else value}")
