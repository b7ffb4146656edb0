"""`frspec count-freq`: text to a frequency table."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frspec_cli import outputs
from frspec_cli.cli import complete, options
from frspec_cli.cli.output import Output
from frspec_cli.cli.tables import show_skipped, show_table
from frspec_cli.corpus.options import Selection
from frspec_cli.counting.options import DOCUMENT_BYTES, CountOptions, RunOptions
from frspec_cli.errors import UsageError, option
from frspec_cli.progress import Callbacks
from frspec_cli.tokens.template_options import template_options

if TYPE_CHECKING:
    from frspec_cli.counting.count import CountResult

_INPUT, _LIMITS, _RUN = "Input", "How much is counted", "Execution"
_SELECT, _COUNT, _HOW = Selection(), CountOptions(), RunOptions()


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Files, folders, globs or URLs (.txt .md .jsonl .ndjson .json .csv .tsv .parquet .arrow, plain, .gz .zst "
            ".bz2 .xz; a file named with any other suffix is plain text), or datasets on the hub (owner/name).",
        ),
    ],
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            "-t",
            autocompletion=complete.models,
            help="A tokenizer.json, a model's folder, short name or hub id.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write, such as counts.parquet.")],
    text_field: Annotated[
        str | None,
        typer.Option(
            help="Field (dotted) or column of the text. Default: text, else conversations or messages.",
            rich_help_panel=_INPUT,
        ),
    ] = _COUNT.text_field,
    source_field: Annotated[
        str | None,
        typer.Option(
            help="Field (dotted) of the label to count by. Default: meta.redpajama_set_name if there is one, else the "
            "folder's or file's name.",
            rich_help_panel=_INPUT,
        ),
    ] = _COUNT.source_field,
    source_name: Annotated[
        str | None, typer.Option(help="One label for all records without one.", rich_help_panel=_INPUT)
    ] = _SELECT.name,
    glob: Annotated[
        str | None,
        typer.Option(help="In folders, read the files that match, such as '**/*.py'.", rich_help_panel=_INPUT),
    ] = _SELECT.glob,
    lines: Annotated[
        bool,
        typer.Option("--lines", help="In plain text a line is a document, not the file.", rich_help_panel=_INPUT),
    ] = _SELECT.lines,
    split_on: Annotated[
        str | None,
        typer.Option(
            metavar="STRING",
            help="In plain text, the string between documents, such as '<|endoftext|>'.",
            rich_help_panel=_INPUT,
        ),
    ] = _COUNT.split_on,
    preformatted: Annotated[
        bool,
        typer.Option(
            "--preformatted",
            help="Texts hold the chat template's tokens, such as <|im_start|>: count them as tokens.",
            rich_help_panel=_INPUT,
        ),
    ] = _COUNT.preformatted,
    split: Annotated[str, typer.Option(help="Split of hub datasets.", rich_help_panel=_INPUT)] = _SELECT.split,
    config: Annotated[
        str | None, typer.Option(help="Configuration of hub datasets.", rich_help_panel=_INPUT)
    ] = _SELECT.config,
    assistant_only: Annotated[
        bool,
        typer.Option(
            "--assistant-only", help="Of conversations, count only what the assistant said.", rich_help_panel=_INPUT
        ),
    ] = _COUNT.assistant_only,
    assistant_role: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A role that means the assistant, such as a model's name.", rich_help_panel=_INPUT
        ),
    ] = _COUNT.assistant_role,
    chat_template: options.ChatTemplate = None,
    template_arg: options.TemplateArg = None,
    limit_documents: Annotated[
        int | None, typer.Option(min=1, help="Count exactly the first N documents.", rich_help_panel=_LIMITS)
    ] = _COUNT.limit_documents,
    limit_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Count exactly the first N tokens, ending inside a document.", rich_help_panel=_LIMITS
        ),
    ] = _COUNT.limit_tokens,
    until_stable: Annotated[
        float | None,
        typer.Option(
            metavar="EPS",
            help="Stop when the coverage that the top --stable-k is expected to lose is below EPS, such as 0.001.",
            rich_help_panel=_LIMITS,
        ),
    ] = _COUNT.until_stable,
    stable_k: Annotated[
        int, typer.Option(min=1, help="The k that --until-stable looks at.", rich_help_panel=_LIMITS)
    ] = _COUNT.stable_k,
    document_frequency: Annotated[
        bool,
        typer.Option(
            "--document-frequency",
            help="Also count the documents that hold each token (takes nearly twice as long).",
            rich_help_panel=_LIMITS,
        ),
    ] = _COUNT.document_frequency,
    max_document_bytes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Skip longer records. Default: {fast:,}, with the reference encoder {reference:,}.".format(
                **DOCUMENT_BYTES
            ),
            rich_help_panel=_LIMITS,
        ),
    ] = _COUNT.max_document_bytes,
    max_bad: Annotated[
        str, typer.Option(help="Fail if more than this share of the records is bad.", rich_help_panel=_LIMITS)
    ] = f"{_HOW.max_bad:.0%}",
    skip_broken_files: Annotated[
        bool,
        typer.Option("--skip-broken-files", help="Leave damaged files out and list them.", rich_help_panel=_LIMITS),
    ] = _COUNT.skip_broken_files,
    encoder: Annotated[
        str, typer.Option(help="auto, fast (gigatoken) or reference (tokenizers).", rich_help_panel=_RUN)
    ] = _HOW.encoder,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes. Default: one per core.", rich_help_panel=_RUN)
    ] = _HOW.workers,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Count only every N-th shard, from the I-th; add up the tables with frspec merge.",
            rich_help_panel=_RUN,
        ),
    ] = "{}/{}".format(*_HOW.shard),
    engine: Annotated[
        str, typer.Option(help="local, or ray (a running Ray cluster, or one made here).", rich_help_panel=_RUN)
    ] = _HOW.engine,
    restart: options.Restart = _HOW.restart,
    force: options.Force = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Count how often each token occurs in a corpus, into a frequency table.

    Each document's text is counted: no special tokens are added and none are recognised in it. A run that was stopped
    resumes when the same command is given again; the table's bytes do not depend on workers or on the order of sources.
    """
    from frspec_cli.corpus.sources import find_shards
    from frspec_cli.counting.count import count_corpus

    out = outputs.check(
        out,
        inputs=[*sources, tokenizer, chat_template],
        replaces=outputs.PARQUET,
        what="a frequency table",
        force=force,
    )
    if lines and split_on:
        raise UsageError(f"give {option('lines')} or {option('split_on')}, not both.")
    output = Output(as_json=as_json, quiet=quiet, out=out)
    how = RunOptions(encoder, workers, engine, _share(max_bad), _shard(shard), restart, force)
    counted = CountOptions(
        text_field=text_field,
        source_field=source_field,
        max_document_bytes=max_document_bytes,
        limit_documents=limit_documents,
        limit_tokens=limit_tokens,
        assistant_only=assistant_only,
        document_frequency=document_frequency,
        until_stable=until_stable,
        stable_k=stable_k,
        skip_broken_files=skip_broken_files,
        assistant_role=assistant_role,
        split_on=split_on,
        preformatted=preformatted,
        template=template_options(chat_template, template_arg or ()),
    )
    selection = Selection(glob=glob, lines=lines, name=source_name, split=split, config=config)
    notes: list[str] = []
    shards = find_shards(sources, selection, say=output.say, note=notes.append)
    outputs.check(out, inputs=[path for shard in shards for path in shard.paths])  # known only now
    for note in notes:
        output.say(note)
    with _Bar(output) as bar:
        result = count_corpus(shards, tokenizer, out, options=counted, how=how, callbacks=bar.callbacks())
    _show(output, result)


def _share(text: str) -> float:
    number = text.strip().removesuffix("%")
    try:
        return float(number) / (100 if number != text.strip() else 1)
    except ValueError:
        raise UsageError(f"{option('max_bad')} {text} is not a share: write 0.01 or 1%.") from None


def _shard(text: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"(\d+)/(\d+)", text.strip())):
        raise UsageError(f"{option('shard')} {text} is not of the form I/N, such as 3/16.")
    return int(match[1]), int(match[2])


class _Bar:
    """The progress bar: documents, MB/s, tokens/s, the share of the files that is read, time left."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.progress = output.long_progress("counting")
        self.now_and_then = output.now_and_then("counting (MB read)")
        self.sums: Counter[str] = Counter()
        self.began, self.size = 0.0, 0

    def __enter__(self) -> _Bar:
        self.task = self.progress.add_task("counting", total=None, talk="")
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def callbacks(self) -> Callbacks:
        return Callbacks(say=self.output.say, warn=self.output.warn, begin=self._begin, advance=self._advance)

    def _begin(self, size: int) -> None:
        self.began, self.size = time.monotonic(), size
        self.progress.start()  # its thread begins only now: the workers are forked by then
        self.progress.update(self.task, total=size or None)

    def _advance(self, **amounts: int) -> None:
        self.sums.update(amounts)
        seconds = max(time.monotonic() - self.began, 1e-3)
        megabytes, millions = self.sums["bytes"] / 1e6, self.sums["tokens"] / 1e6
        rates = f"{megabytes / seconds:,.1f} MB/s, {millions / seconds:,.2f} M tokens/s"
        talk = f"{self.sums['documents']:,} documents, {rates}"
        self.progress.update(self.task, advance=amounts["read"], talk=talk)
        self.now_and_then(self.sums["read"] // 10**6, self.size // 10**6, talk)


def _show(output: Output, result: CountResult) -> None:
    metadata = result.table.metadata
    if result.stopped:
        output.say(f"stopped by {option(result.stopped)} after {metadata['documents']:,} documents.")
    show_skipped(output, result.table, result.examples)
    if not metadata["documents"]:
        output.warn("this part of the corpus holds no text, so its table is empty.")
    show_table(output, result.out, result.table, result.seconds)
