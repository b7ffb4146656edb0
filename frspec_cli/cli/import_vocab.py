"""`frspec import-vocab`: another project's draft vocabulary as a subset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frspec_cli.cli import options
from frspec_cli.cli.build_vocab import check_out
from frspec_cli.cli.output import Output
from frspec_cli.errors import FrspecError, UsageError


def command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .pt, .npy, .json, .txt or safetensors file, or a folder.")
    ],
    tokenizer: Annotated[str, typer.Option("--tokenizer", "--model", help="The tokenizer (or model) of the ids.")],
    out: Annotated[str, typer.Option("--out", "-o", help="The subset file.")],
    vocab_rows: Annotated[int | None, typer.Option(help="Rows of the target's embedding.")] = None,
    read_as: Annotated[str | None, typer.Option("--as", help="ids or offsets, where a file could hold either.")] = None,
    counts: Annotated[Path | None, typer.Option(help="A frequency table: rank the ids by it.")] = None,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Keep the first of repeated ids.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Read a draft vocabulary of FR-Spec, SGLang, EAGLE-3, SpecForge, speculators or a plain list of ids.

    What a file is, is told by what it holds, and no code in it is ever run.
    FR-Spec's own defect, an id repeated at the very end, is repaired and named; other repetitions are refused.
    """
    from frspec_cli.counting.table import FrequencyTable
    from frspec_cli.subsets.foreign import AS_IDS, AS_OFFSETS
    from frspec_cli.subsets.foreign_read import read_foreign
    from frspec_cli.subsets.importing import import_list
    from frspec_cli.subsets.subset import show_token
    from frspec_cli.tokens.tokenizer import load_tokenizer

    if read_as not in (None, AS_IDS, AS_OFFSETS):
        raise UsageError(f"--as {read_as} is neither ids nor offsets.")
    check_out(out, [file])
    output = Output(as_json=as_json, quiet=quiet)
    found = read_foreign(file, read_as=read_as)
    loaded = load_tokenizer(tokenizer)
    totals = None
    if counts is not None:
        table = FrequencyTable.read(counts)
        if table.fingerprint != loaded.fingerprint:
            raise FrspecError(f"{counts} was counted with another tokenizer than {tokenizer}.")
        totals = table.totals()
    done = import_list(found, loaded, vocabulary_rows=vocab_rows, dedupe=dedupe, counts=totals)
    for warning in done.warnings:
        output.warn(warning)
    subset = done.subset
    subset.write(out)
    first = " ".join(show_token(content) for content in subset.tokens[:8])
    output.say(f"read as {found.format}: {subset.k:,} ids of {subset.metadata['vocabulary_rows']:,}, first {first}")
    value = {
        "out": out,
        "format": found.format,
        "k": subset.k,
        "sha256": subset.metadata["sha256"],
        "warnings": list(done.warnings),
    }
    output.result(value, f"wrote {out}")
