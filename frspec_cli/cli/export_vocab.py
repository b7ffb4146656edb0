"""`frspec export-vocab`: a subset in the format of a serving engine or a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frspec_cli.cli import options
from frspec_cli.cli.build_vocab import check_out
from frspec_cli.cli.output import Output
from frspec_cli.errors import UsageError

if TYPE_CHECKING:
    from frspec_cli.subsets.foreign_write import Export
    from frspec_cli.subsets.subset import VocabularySubset

NO_VLLM = (
    "no released version of vLLM takes a draft vocabulary for EAGLE-1/2 heads, so there is no file to write for it."
)


def command(
    subset: Annotated[Path, typer.Argument(metavar="SUBSET", help="A vocabulary subset.")],
    to: Annotated[
        str,
        typer.Option(
            help="fr-spec, sglang (.pt list by rank); eagle3 (d2t and t2d, as .pt, or as safetensors if --out ends so); "
            "speculators (a folder with d2t.npy and t2d.npy); token-freq (speculators' counts); ids-pt, npy, json, txt "
            "(ids, ascending)."
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="The file, or for speculators the folder.")],
    k: Annotated[int | None, typer.Option("--k", help="Only the first k tokens.")] = None,
    order: Annotated[str | None, typer.Option(help="rank or id, where the format leaves the choice.")] = None,
    vocab_rows: Annotated[int | None, typer.Option(help="Rows of the target's embedding: the length of t2d.")] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a subset for SGLang, FR-Spec, EAGLE-3, SpecForge, speculators and others.

    Beside it lies a manifest: sha256 of the ids, the tokenizer's fingerprint, where the counts came from.
    No released vLLM takes a draft vocabulary for EAGLE-1/2 heads; EAGLE-3 heads carry their own (d2t).
    """
    from frspec_cli.subsets.foreign_write import export_subset
    from frspec_cli.subsets.load import load_subset

    if to == "vllm":
        raise UsageError(
            NO_VLLM, hint="EAGLE-3 heads carry their own vocabulary: frspec export-draft --to speculators."
        )
    check_out(out, [subset])
    output = Output(as_json=as_json, quiet=quiet)
    loaded = load_subset(subset, k=k)
    done = export_subset(loaded, to, out, order=order, vocabulary_rows=vocab_rows)
    for warning in done.warnings:
        output.warn(warning)
    value = {"out": out, "format": to, "k": loaded.k, "sha256": done.sha256, "warnings": list(done.warnings)}
    usage = how_to_use(loaded, done)
    if usage:
        value["command"] = usage
        if not as_json:
            output.data(usage)
    output.result(value, f"wrote {out} ({loaded.k:,} ids) and its manifest")


def how_to_use(subset: VocabularySubset, done: Export) -> str:
    """The command line that uses an export, where there is one."""
    target = subset.metadata["tokenizer"]["reference"]
    if done.format == "sglang":
        return (
            f"python -m sglang.launch_server --model-path {target} --speculative-algorithm EAGLE "
            "--speculative-draft-model-path EAGLE_HEAD --speculative-num-steps 5 --speculative-eagle-topk 8 "
            f"--speculative-num-draft-tokens 64 --speculative-token-map {done.out}"
        )
    return ""
