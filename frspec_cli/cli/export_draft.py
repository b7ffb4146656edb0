"""`frspec export-draft`: a draft head in the layout that another engine reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.errors import FrspecError, UsageError

if TYPE_CHECKING:
    import torch


def command(
    head: Annotated[str, typer.Argument(metavar="HEAD", help="A draft head: a folder or hub id.")],
    to: Annotated[
        str, typer.Option("--to", help="eagle (EAGLE's own code), sglang, or speculators (which vLLM loads).")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    vocab: Annotated[
        Path | None, typer.Option("--vocab", help="Slice an EAGLE-3 head to this subset, inside the tokens it has.")
    ] = None,
    k: options.K = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The target: its name, layers and tokenizer.")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a published or trained head for EAGLE's code, SGLang or speculators.

    EAGLE-1/2 heads go to eagle and sglang, EAGLE-3 heads to all three. A FrspecEagle head has norms that no other layout
    has a place for, so only frspec runs it. An EAGLE-3 head sliced to a subset is the one way to FR-Spec under vLLM.
    """
    from frspec_cli.heads.export import PEERS
    from frspec_cli.heads.files import HEAD, holds_only_head

    if to not in PEERS:
        raise UsageError(f"--to {to} is not one of {', '.join(PEERS)}.")
    if k is not None and vocab is None:
        raise UsageError("--k takes a prefix of --vocab, which is not given.")
    inputs = [head, vocab, model]
    out = outputs.check(out, inputs=inputs, kind="folder", replaces=holds_only_head, what=HEAD)
    output = Output(as_json=as_json, quiet=quiet)

    from frspec_cli.heads.export import export_head
    from frspec_cli.heads.files import locate_head
    from frspec_cli.models.locate import locate_model

    folder = None if model is None else locate_model(model)
    subset = None if vocab is None else _subset(vocab, k, locate_head(head), folder, output)
    layers = None if folder is None else _layers(folder)
    peer: Any = to
    done = export_head(head, peer, out, subset=subset, layers=layers, target=model)
    for warning in done.warnings:
        output.warn(warning)
    rows = f", {done.k:,} draft tokens" if done.k else ""
    output.result(
        {"out": str(out), "format": to, "k": done.k, "sha256": done.sha256, "warnings": list(done.warnings)},
        f"wrote {out} for {to}{rows}",
    )


def _layers(folder: Path) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return int(config.get_text_config().num_hidden_layers)


def _subset(vocab: Path, k: int | None, head: Path, target: Path | None, output: Output) -> torch.Tensor:
    """int64 [K], by rank. Its tokenizer must be that of the head's target: given by --model, else as the head records it."""
    import torch

    from frspec_cli.heads.files import read_config
    from frspec_cli.subsets.load import load_subset
    from frspec_cli.tokens.tokenizer import load_tokenizer

    tokenizer = None if target is None else load_tokenizer(str(target))
    subset = load_subset(vocab, tokenizer=tokenizer, k=k, warn=output.warn)
    known = read_config(head).get("tokenizer_fingerprint")
    if tokenizer is None and known is None:
        output.warn(
            f"{head} does not say which tokenizer its tokens are of: name its target with --model to have {vocab} checked."
        )
    elif tokenizer is None and known is not None and known != subset.fingerprint:
        raise FrspecError(
            f"{vocab} was made for another tokenizer ({subset.fingerprint[:12]}) than {head} was trained with ({known[:12]}).",
            hint="If their tokens are the same all the same, name the target with --model: then they are compared.",
        )
    return torch.from_numpy(subset.token_ids.astype("int64"))
