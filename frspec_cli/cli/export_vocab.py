"""`frspec export-vocab`: a subset in the format of a serving engine or a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frspec_cli import outputs
from frspec_cli.cli import complete, options
from frspec_cli.cli.output import Output


def command(
    subset: Annotated[
        Path, typer.Argument(metavar="SUBSET", autocompletion=complete.subsets, help="A vocabulary subset.")
    ],
    to: Annotated[
        str,
        typer.Option(
            autocompletion=complete.formats,
            help="fr-spec, sglang (.pt list by rank); eagle3 (d2t and t2d, as .pt, or as safetensors if --out ends so); "
            "speculators (a folder with d2t.npy and t2d.npy); token-freq (speculators' counts); modelopt (a lone d2t.pt); "
            "nemo (draft_token_map.pt); tensorrt-edge (a folder with vocab_map.safetensors); gguf; ids-pt, npy, json, "
            "json-ids, txt, int32 (ids, ascending); tsv, csv (ids with counts); ranges (raw int32 pairs).",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The file, or for speculators and tensorrt-edge the folder.")],
    k: options.K = None,
    order: Annotated[str | None, typer.Option(help="rank or id, if the format leaves the choice.")] = None,
    vocab_rows: Annotated[int | None, typer.Option(help="Rows of the target's embedding: the length of t2d.")] = None,
    force: options.Force = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a subset for SGLang, FR-Spec, EAGLE-3, SpecForge, speculators and others.

    A manifest is written beside it: sha256 of the ids, the tokenizer's fingerprint, where the counts came from.
    No released vLLM takes a draft vocabulary for EAGLE-1/2 heads; EAGLE-3 heads carry their own (d2t).
    """
    from frspec_cli.subsets.exporting import check_export, export_subset
    from frspec_cli.subsets.load import load_subset

    out = str(check_export(to, out, [subset]))
    output = Output(as_json=as_json, quiet=quiet, out=Path(out))
    loaded = load_subset(subset, k=k)
    with outputs.written(force=force) as done:
        export = export_subset(loaded, to, out, order=order, vocab_rows=vocab_rows)
    for warning in export.warnings:
        output.warn(warning)
    value = {"out": out, "format": to, "k": loaded.k, "sha256": export.sha256, "warnings": list(export.warnings)}
    if export.usage:
        value["command"] = export.usage
        if not as_json:
            output.data(export.usage)
            output.say(export.usage_note)
    output.result(value, f"{done.line(out)} ({loaded.k:,} ids) and {Path(out).name}.manifest.json")
