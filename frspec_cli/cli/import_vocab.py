"""`frspec import-vocab`: another project's draft vocabulary as a subset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frspec_cli import outputs
from frspec_cli.cli import complete, options
from frspec_cli.cli.output import Output


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A .pt, .npy, .json, .txt, .tsv, .csv, .bin, .gguf or safetensors file, or a folder."
        ),
    ],
    tokenizer: Annotated[
        str,
        typer.Option("--tokenizer", "-t", autocompletion=complete.models, help="The tokenizer (or model) of the ids."),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The subset file.")],
    vocab_rows: Annotated[int | None, typer.Option(help="Rows of the target's embedding.")] = None,
    read_as: Annotated[
        str | None, typer.Option("--as", help="ids, offsets or ranges, if the file could hold more than one.")
    ] = None,
    counts: Annotated[Path | None, typer.Option(help="A frequency table: rank the ids by it.")] = None,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Keep the first of repeated ids.")] = False,
    force: options.Force = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Read a draft vocabulary of FR-Spec, SGLang, EAGLE-3, SpecForge, speculators or a plain list of ids.

    Model-Optimizer's, NeMo's, TensorRT-Edge-LLM's and llama.cpp's are read too. The format is
    detected from the contents; no code in the file is executed.
    FR-Spec's own defect, an id repeated at the very end, is repaired and reported; other repetitions are refused.
    """
    from frspec_cli.subsets.formats import read_foreign
    from frspec_cli.subsets.importing import import_list
    from frspec_cli.subsets.mix import NamedTable
    from frspec_cli.subsets.subset import show_token
    from frspec_cli.tokens.tokenizer import load_tokenizer

    inputs: list[Path | str | None] = [file, tokenizer, counts]
    path = outputs.check(out, inputs=inputs, replaces=outputs.PARQUET, what="a vocabulary subset", force=force)
    output, out = Output(as_json=as_json, quiet=quiet, out=path), str(path)
    foreign = read_foreign(file, read_as=read_as)
    table = None if counts is None else NamedTable.read(counts)
    imported = import_list(foreign, load_tokenizer(tokenizer), vocab_rows=vocab_rows, dedupe=dedupe, counts=table)
    for warning in imported.warnings:
        output.warn(warning)
    subset, entries = imported.subset, imported.entries
    with outputs.written(force=force) as done:
        subset.write(out)
    first = " ".join(show_token(content) for content in subset.tokens[:8])
    how = f"{entries.format} ({entries.reading}, {'by rank' if subset.metadata['nested'] else 'by id'})"
    output.say(f"read as {how}: {subset.k:,} ids of {subset.metadata['vocabulary_rows']:,}, first {first}")
    value = {
        "out": out,
        "format": entries.format,
        "reading": entries.reading,
        "ranked": subset.metadata["nested"],
        "k": subset.k,
        "sha256": subset.metadata["sha256"],
        "warnings": list(imported.warnings),
    }
    output.result(value, done.line(out))
