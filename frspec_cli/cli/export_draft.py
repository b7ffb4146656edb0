"""`frspec export-draft`: a draft head in the layout that another engine reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.cli import complete, options
from frspec_cli.cli.output import Output
from frspec_cli.errors import UsageError


def command(
    head: Annotated[
        str, typer.Argument(metavar="HEAD", help="A draft head: a folder or hub id; or mtp for the model's own module.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            autocompletion=complete.peers,
            help="eagle (EAGLE's own code), sglang, or speculators (which vLLM loads); for mtp safetensors: the LM head's "
            "rows of --vocab with their ids.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    vocab: Annotated[
        Path | None, typer.Option("--vocab", help="The subset: an EAGLE-3 head is sliced inside the tokens it has.")
    ] = None,
    k: options.K = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The target: its name, layers, tokenizer and embedding.")
    ] = None,
    norm_output: options.NormOutput = None,
    force: options.Force = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a published or trained head for EAGLE's code, SGLang or speculators.

    EAGLE-1/2 heads go to eagle and sglang, EAGLE-3 heads to all three. A FrspecEagle head has norms that no other layout
    has a place for, so only frspec runs it. Slicing an EAGLE-3 head to a subset is the only way to FR-Spec under vLLM.
    """
    from frspec_cli.heads.options import MTP, ROWS, ExportOptions

    if head == MTP or to == ROWS:
        if norm_output is not None:
            raise UsageError("--norm-output has no effect on the rows of an LM head.")
        _export_rows(head, to, out, vocab, k, model, Output(as_json=as_json, quiet=quiet))
        return
    peer: Any = to  # checked by the options
    export = ExportOptions(to=peer, vocab=vocab, k=k, model=model, norm_output=norm_output)

    from frspec_cli.heads.export import export_draft
    from frspec_cli.heads.files import HEAD, holds_only_head

    out = outputs.check(out, inputs=[head, vocab, model], kind="folder", replaces=holds_only_head, what=HEAD)
    output = Output(as_json=as_json, quiet=quiet)
    with outputs.written(force=force) as done:
        written = export_draft(head, out, export)
    for warning in written.warnings:
        output.warn(warning)
    rows = f", {written.k:,} draft tokens" if written.k else ""
    if written.embedding_bytes is not None:
        rows += f", with the target's embedding ({written.embedding_bytes / 1e6:,.1f} MB)"
    output.result(
        {"out": str(out), "format": to, "k": written.k, "sha256": written.sha256, "warnings": list(written.warnings)},
        f"{done.line(out)} for {to}{rows}",
    )


def _export_rows(
    head: str, to: str, out: Path, vocab: Path | None, k: int | None, model: str | None, output: Output
) -> None:
    """The rows of a subset for the model's own MTP module."""
    from frspec_cli.heads.mtp_rows import FOLDER, export_rows, holds_only_rows
    from frspec_cli.heads.options import MTP, ROWS

    if head != MTP or to != ROWS:
        raise UsageError(f"{MTP} is exported with --to {ROWS}, and nothing else is.")
    if vocab is None or model is None:
        raise UsageError(f"{MTP} needs --model, whose LM head it uses, and --vocab, whose rows are written.")
    out = outputs.check(out, inputs=[vocab, model], kind="folder", replaces=holds_only_rows, what=FOLDER)
    written = export_rows(model, vocab, out, k=k)
    for warning in written.warnings:
        output.warn(warning)
    output.result(
        {"out": str(out), "format": to, "k": written.k, "sha256": written.sha256, "warnings": list(written.warnings)},
        f"wrote {out}: {written.k:,} rows of the LM head and their ids",
    )
