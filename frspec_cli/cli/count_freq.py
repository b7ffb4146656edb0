"""`frspec count-freq`: text to a frequency table."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.errors import UsageError

if TYPE_CHECKING:
    from frspec_cli.counting.count import CountResult
    from frspec_cli.counting.options import Listener
    from frspec_cli.counting.table import FrequencyTable

_INPUT, _LIMITS, _RUN = "What is read", "How much is counted", "How it is run"


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Files, folders, globs or URLs (.txt .md .jsonl .json .parquet .arrow, plain, .gz or .zst; a file named "
            "with any other suffix is plain text), or datasets on the hub (owner/name).",
        ),
    ],
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", "-t", help="A tokenizer.json, a model's folder, short name or hub id.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write, such as counts.parquet.")],
    text_field: Annotated[
        str | None,
        typer.Option(
            help="Field (dotted) of the text. Default: text, else conversations or messages.", rich_help_panel=_INPUT
        ),
    ] = None,
    source_field: Annotated[
        str | None,
        typer.Option(
            help="Field (dotted) of the label to count by. Default: meta.redpajama_set_name where there is one, else the "
            "folder's or file's name.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    source_name: Annotated[
        str | None, typer.Option(help="One label for all that carries none.", rich_help_panel=_INPUT)
    ] = None,
    glob: Annotated[
        str | None,
        typer.Option(help="In folders, the files that match, such as '**/*.py'.", rich_help_panel=_INPUT),
    ] = None,
    lines: Annotated[
        bool,
        typer.Option("--lines", help="In plain text a line is a document, not the file.", rich_help_panel=_INPUT),
    ] = False,
    split: Annotated[str, typer.Option(help="Split of hub datasets.", rich_help_panel=_INPUT)] = "train",
    config: Annotated[str | None, typer.Option(help="Configuration of hub datasets.", rich_help_panel=_INPUT)] = None,
    assistant_only: Annotated[
        bool,
        typer.Option(
            "--assistant-only", help="Of conversations, only what the assistant said.", rich_help_panel=_INPUT
        ),
    ] = False,
    limit_documents: Annotated[
        int | None, typer.Option(min=1, help="Stop after exactly so many documents.", rich_help_panel=_LIMITS)
    ] = None,
    limit_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after exactly so many tokens, inside a document.", rich_help_panel=_LIMITS),
    ] = None,
    until_stable: Annotated[
        float | None,
        typer.Option(
            metavar="EPS",
            help="Stop when the coverage that the top --stable-k is expected to lose is below EPS, such as 0.001.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    stable_k: Annotated[
        int, typer.Option(min=1, help="The k that --until-stable looks at.", rich_help_panel=_LIMITS)
    ] = 32768,
    document_frequency: Annotated[
        bool,
        typer.Option(
            "--document-frequency",
            help="Also count the documents that hold each token (takes nearly twice as long).",
            rich_help_panel=_LIMITS,
        ),
    ] = False,
    max_document_bytes: Annotated[
        int, typer.Option(min=1, help="Longer records are skipped.", rich_help_panel=_LIMITS)
    ] = 16 << 20,
    max_bad: Annotated[
        str, typer.Option(help="Fail when more than this share of the records is bad.", rich_help_panel=_LIMITS)
    ] = "1%",
    skip_broken_files: Annotated[
        bool,
        typer.Option("--skip-broken-files", help="Leave damaged files out and list them.", rich_help_panel=_LIMITS),
    ] = False,
    encoder: Annotated[
        str, typer.Option(help="auto, fast (gigatoken) or reference (tokenizers).", rich_help_panel=_RUN)
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes. Default: one a core.", rich_help_panel=_RUN)
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N", help="Count every N-th shard only; add the tables with frspec merge.", rich_help_panel=_RUN
        ),
    ] = "1/1",
    engine: Annotated[
        str, typer.Option(help="local, or ray (a running Ray cluster, or one made here).", rich_help_panel=_RUN)
    ] = "local",
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget what a stopped run has counted.", rich_help_panel=_RUN)
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Count how often each token occurs in a corpus, into a frequency table.

    Counted is each document's text: no special tokens are added and none are recognised in it. A run that was stopped
    goes on when the same command is given again; the table's bytes do not depend on workers or on the order of sources.
    """
    from frspec_cli.corpus.sources import Selection, find_shards
    from frspec_cli.counting.count import count_corpus
    from frspec_cli.counting.options import CountOptions, RunOptions

    output = Output(as_json=as_json, quiet=quiet)
    how = RunOptions(encoder, workers, engine, _share(max_bad), _shard(shard), restart)
    options = CountOptions(
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
    )
    selection = Selection(glob=glob, lines=lines, name=source_name, split=split, config=config)
    shards = find_shards(sources, selection, say=output.say)
    with _Bar(output) as bar:
        try:
            result = count_corpus(shards, tokenizer, out, options=options, how=how, listener=bar.listener())
        except KeyboardInterrupt:
            output.say(
                f"interrupted: what is counted is kept in {out}.ledger, and the same command goes on from there."
            )
            raise
    _show(output, result)


def _share(text: str) -> float:
    number = text.strip().removesuffix("%")
    try:
        return float(number) / (100 if number != text.strip() else 1)
    except ValueError:
        raise UsageError(f"--max-bad {text} is no share: write 0.01 or 1%.") from None


def _shard(text: str) -> tuple[int, int]:
    if not (match := re.fullmatch(r"(\d+)/(\d+)", text.strip())):
        raise UsageError(f"--shard {text} is not of the form I/N, such as 3/16.")
    return int(match[1]), int(match[2])


class _Bar:
    """The progress bar: documents, MB/s, tokens/s, the share of the files that is read, time left."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.progress = output.long_progress("counting")
        self.sums = [0, 0, 0]
        self.began = 0.0

    def __enter__(self) -> _Bar:
        self.task = self.progress.add_task("counting", total=None, talk="")
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def listener(self) -> Listener:
        from frspec_cli.counting.options import Listener

        return Listener(say=self.output.say, begin=self._begin, progress=self._more)

    def _begin(self, size: int) -> None:
        self.began = time.monotonic()
        self.progress.start()  # its thread begins only now: the workers are forked by then
        self.progress.update(self.task, total=size or None)

    def _more(self, documents: int, size: int, tokens: int, read: int) -> None:
        self.sums = [have + more for have, more in zip(self.sums, (documents, size, tokens), strict=True)]
        seconds = max(time.monotonic() - self.began, 1e-3)
        documents, megabytes, millions = self.sums[0], self.sums[1] / 1e6, self.sums[2] / 1e6
        rates = f"{megabytes / seconds:,.1f} MB/s, {millions / seconds:,.2f} M tokens/s"
        self.progress.update(self.task, advance=read, talk=f"{documents:,} documents, {rates}")


def _show(output: Output, result: CountResult) -> None:
    metadata = result.table.metadata
    if result.stopped:
        output.say(f"stopped by {result.stopped} after {metadata['documents']:,} documents.")
    show_skipped(output, result.table, result.examples)
    if not metadata["documents"]:
        output.warn("no text was found, so the table is empty.")
    show_table(output, result.out, result.table, result.seconds)


def show_skipped(output: Output, table: FrequencyTable, examples: list[tuple[str, int, str, str]]) -> None:
    """Says what was skipped, why and where."""
    from frspec_cli.counting.run import in_words

    skipped = table.metadata["skipped"]
    if total := sum(skipped.values()):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        output.say(f"skipped {total:,} of {table.metadata['lines']:,} records: {reasons}.")
        for example in sorted(examples, key=lambda example: example[2] == "empty")[:8]:
            output.say(f"  {in_words(example)}")
    for shard in table.metadata["shards"]:
        if "broken" in shard:
            output.warn(f"left out: {shard['broken']}")


def show_table(output: Output, out: Path, table: FrequencyTable, seconds: float) -> None:
    """The figures of a table that was written: stability for people, one object for programs."""
    metadata = table.metadata
    rows = [
        (
            k,
            f"{row['coverage']:.2%}",
            f"{row['low']:.2%} - {row['high']:.2%}",
            f"{row['expected_loss']:.3%}",
            f"{row['kept']:.1%}",
        )
        for k, row in metadata["stability"].items()
    ]
    if rows:
        output.table("", ("top k", "held-out coverage", "95 %", "expected loss", "kept by other text"), rows)
    value: dict[str, Any] = {"out": str(out), "tokenizer": metadata["tokenizer"]["reference"]}
    value |= {"encoder": metadata["encoder"]["name"]}
    value |= {name: metadata[name] for name in ("lines", "documents", "skipped", "tokens", "bytes")}
    value |= {"seconds": round(seconds, 3), "stability": metadata["stability"]}
    rate = metadata["bytes"] / 1e6 / max(seconds, 1e-9)
    output.result(
        value,
        f"{metadata['documents']:,} documents, {metadata['tokens']:,} tokens, {metadata['bytes'] / 1e6:,.1f} MB "
        f"in {seconds:.1f} s ({rate:,.1f} MB/s, encoder: {metadata['encoder']['name']}) -> {out}",
    )
