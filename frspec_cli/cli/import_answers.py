"""`frspec import-answers`: answers that a serving engine recorded, as training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from frspec_cli import outputs
from frspec_cli.cli import complete, options
from frspec_cli.cli.output import Output
from frspec_cli.tokens.template_options import template_options


def command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="OpenAI's batch output (JSONL), as vLLM and SGLang write it.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The answers (.jsonl).")],
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", "-t", autocompletion=complete.models, help="The target or its tokenizer.")
    ],
    requests: Annotated[
        Path | None, typer.Option("--requests", help="The batch's input, which holds the questions.")
    ] = None,
    chat_template: options.ChatTemplate = None,
    template_arg: options.TemplateArg = None,
    force: options.Force = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn answers that vLLM or SGLang recorded into training data for a draft head.

    Token ids are used where the engine recorded them (vLLM: "return_token_ids": true); else the chat template gives them.
    An answer that cannot be used is named with its line.
    """
    from frspec_cli.answers.importing import import_answers

    inputs = [file, requests, tokenizer, chat_template]
    out = outputs.check(out, inputs=inputs, replaces=outputs.ANSWERS, what="a file of answers", force=force)
    output = Output(as_json=as_json, quiet=quiet, out=out)
    template = template_options(chat_template, template_arg or ())
    with outputs.written(force=force) as done:
        imported = import_answers(file, out, tokenizer=tokenizer, requests=requests, template=template)
    for where, why in imported.skipped[:8]:
        output.say(f"skipped {where}: {why}")
    if imported.skipped:
        output.warn(f"{len(imported.skipped):,} lines could not be used.")
    value = {
        "out": str(out),
        "answers": imported.answers,
        "tokens": imported.tokens,
        "recorded": imported.recorded,
        "skipped": len(imported.skipped),
    }
    output.result(
        value,
        f"{imported.answers:,} answers, {imported.tokens:,} tokens, {imported.recorded:,} with recorded ids; {done.line(out)}",
    )
