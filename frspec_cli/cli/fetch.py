"""`frspec fetch`: download and convert an embedded model before its first use."""

from __future__ import annotations

from typing import Annotated

import typer

from frspec_cli.cli import complete, options
from frspec_cli.cli.output import Output
from frspec_cli.errors import FrspecError, did_you_mean


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", autocompletion=complete.models, help="Short name of a model; leave it out to list them."
        ),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Download an embedded model into the cache ($FRSPEC_CACHE), or list them."""
    from frspec_cli.models.embedded import EMBEDDED
    from frspec_cli.models.locate import locate_model

    output = Output(as_json=as_json, quiet=quiet)
    if name is None:
        _list(output)
        return
    if name not in EMBEDDED:
        raise FrspecError(
            f"there is no embedded model {name!r}; available: {', '.join(EMBEDDED)}.", hint=did_you_mean(name, EMBEDDED)
        )
    folder = locate_model(name, say=output.say)
    output.result({"name": name, "folder": str(folder)}, f"{name} is in {folder}")


def _list(output: Output) -> None:
    from frspec_cli.models.convert import converted_folder
    from frspec_cli.models.embedded import EMBEDDED

    models = [
        {
            "name": model.name,
            "title": model.title,
            "megabytes": model.megabytes,
            "licence": model.licence,
            "cached": converted_folder(model.name, model.sha256).is_dir(),
        }
        for model in EMBEDDED.values()
    ]
    if output.as_json:
        output.json({"models": models})
        return
    rows = [
        [m["name"], m["title"], m["licence"], f"{m['megabytes']} MB", "yes" if m["cached"] else "no"] for m in models
    ]
    output.table("Embedded models", ["name", "model", "licence", "download", "in the cache"], rows, left=3)
