"""From a corpus to a table on disk: chooses the encoder, runs, keeps the ledger, writes the file."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from frspec_cli import outputs, storage
from frspec_cli.corpus.documents import Reason
from frspec_cli.corpus.shards import Shard
from frspec_cli.counting.encoder_selection import check_encoder, recheck_samples, reference_of, select_fast_encoder
from frspec_cli.counting.executors import Executor, InProcess, WorkerPool
from frspec_cli.counting.existing import check_table
from frspec_cli.counting.ledger import Ledger, begun_with, make_plan
from frspec_cli.counting.markers import marker_warning
from frspec_cli.counting.options import DOCUMENT_BYTES, CountOptions, RunOptions
from frspec_cli.counting.run import CorpusRun, Counted
from frspec_cli.counting.stability import stability
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.counting.worker import CounterSpec, ShardCounter
from frspec_cli.errors import FrspecError, option
from frspec_cli.models.locate import locate_tokenizer
from frspec_cli.progress import Callbacks
from frspec_cli.resume import run_folder
from frspec_cli.tokens.encoder import ReferenceEncoder
from frspec_cli.tokens.encoder_check import EncodersDiffer
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer


@dataclass(frozen=True)
class CountResult:
    """A table that was written, and what is worth telling about it.

    stopped: the option that ended the count early; "" if the whole corpus was counted.
    examples: (shard's or file's name, line or 0, reason, detail) of a few skipped records.
    """

    out: Path
    table: FrequencyTable
    lines: int
    seconds: float
    stopped: str = ""
    examples: list[tuple[str, int, str, str]] = field(default_factory=list)


def count_corpus(
    shards: list[Shard],
    tokenizer: str,
    out: Path | str,
    *,
    options: CountOptions | None = None,
    how: RunOptions | None = None,
    callbacks: Callbacks | None = None,
) -> CountResult:
    """Counts the shards with the tokenizer of that name into a table at `out`.

    Killed and called again alike, it resumes and writes the same bytes.

    callbacks: `begin` gets the bytes on disk that are to be read; `advance` gets `documents`, their `bytes`, their `tokens`
        and the bytes `read` from the disk; `finished` gets the size on disk of a shard that is counted.

    Raises `FrspecError` for broken files, too many bad records, a ledger of other inputs, a folder that is read-only.
    """
    options, how, callbacks = options or CountOptions(), how or RunOptions(), callbacks or Callbacks()
    began = time.monotonic()
    read = [tokenizer, *(path for shard in shards for path in shard.paths)]
    out = outputs.check(out, inputs=read, replaces=outputs.PARQUET, what="a frequency table", force=how.force)
    check_table(out, _mine(shards, how), tokenizer, options, how)
    with _ledger_folder(out) as folder:
        count = partial(_count, shards, tokenizer, options=options, folder=folder, callbacks=callbacks, out=out)
        try:
            counted, table = count(how=how)
        except EncodersDiffer as error:
            if how.encoder != "auto":
                raise
            callbacks.say(f"counting again with the reference encoder: {error.message}")
            counted, table = count(how=replace(how, encoder="reference", restart=True))
    return CountResult(out, table, counted.lines, time.monotonic() - began, counted.stopped, counted.examples)


@contextmanager
def _ledger_folder(out: Path) -> Iterator[Path]:
    """Beside the output; for a stream, of which nothing can be resumed, a temporary one."""
    if not storage.is_stream(out):
        yield run_folder(out)
        return
    with tempfile.TemporaryDirectory(prefix="frspec-") as folder:
        yield run_folder(Path(folder) / "counts.parquet")


def _count(
    shards: list[Shard],
    tokenizer: str,
    *,
    options: CountOptions,
    how: RunOptions,
    folder: Path,
    callbacks: Callbacks,
    out: Path,
) -> tuple[Counted, FrequencyTable]:
    """Counts with one choice of encoder, writes the table to `out`, removes the ledger (in `folder`).

    Raises `EncodersDiffer` if the fast encoder gave an id that the reference does not give.
    """
    mine = _mine(shards, how)
    path = str(locate_tokenizer(tokenizer))
    fast = select_fast_encoder(
        how.encoder,
        path,
        begun_with=None if how.restart else begun_with(folder),
        threads=len(mine) == 1 and (how.workers or available_cores()) > 1,
        say=callbacks.say,
    )
    encoder = fast or ReferenceEncoder(load_tokenizer(tokenizer, options.template))
    counter = ShardCounter(CounterSpec(encoder.name, path, encoder.rows, options), encoder)
    plan = make_plan(tokenizer=path, encoder=encoder.name, options=options.recorded(), shards=mine)
    with Ledger.opened(folder, plan, mine, restart=how.restart) as ledger:
        run = CorpusRun(mine, counter, max_bad=how.max_bad, ledger=ledger, finished=callbacks.finished)
        run.resume()
        reference, encoder_record = _run(run, _executor(how, counter, run), tokenizer, shards, callbacks)
        counted = run.finish()
        ledger.check_unchanged(mine)
        _check_found(counted, how)
        _warn_of_length(counted, encoder.name, options, callbacks)
        table = _table(counted, reference, encoder_record, options)
        _place(table, out, ledger)
    return counted, table


def _mine(shards: list[Shard], how: RunOptions) -> list[Shard]:
    """The part of the corpus that this run counts."""
    return shards[how.shard[0] - 1 :: how.shard[1]]


def _run(
    run: CorpusRun, executor: Executor, tokenizer: str, shards: list[Shard], callbacks: Callbacks
) -> tuple[LoadedTokenizer, dict[str, Any]]:
    """Counts what is left, and checks the encoder; the reference tokenizer, and what a table says of the encoder."""
    encoder, left = run.counter.encoder, run.missing()
    try:
        executor.start(run.tasks())
        # From here on the workers count, while this process builds the reference (0.3 s with SmolLM2's tokenizer, 4 s with
        # Gemma's) and checks their encoder. It comes after the start also because a fork must not copy threads.
        if resumed := len(run.shards) - len(left):
            callbacks.say(f"{resumed} of {len(run.shards)} shards were counted before; resuming.")
        callbacks.begin(sum(run.shards[index].size for index in left))
        used = encoder.encoder
        loaded = (
            used.tokenizer if isinstance(used, ReferenceEncoder) else load_tokenizer(tokenizer, run.options.template)
        )
        fields = run.options.fields(run.counter.spec.encoder)
        if not run.options.preformatted and (sentence := marker_warning(shards, fields, loaded)):
            callbacks.warn(sentence)
        encoder_record = check_encoder(encoder, loaded, shards, fields)
        _ = loaded.fingerprint  # a cached property
        reference = reference_of(encoder, loaded)
        for index, part in executor.results(callbacks.advance):
            recheck_samples(part, reference)
            run.add(index, part)
            if run.counted.stopped:
                break
    finally:
        executor.close()
    return loaded, encoder_record


def _check_found(counted: Counted, how: RunOptions) -> None:
    """Raises `FrspecError` if the corpus holds no text; a part of it may."""
    if not counted.documents and how.shard[1] == 1:
        raise FrspecError(
            f"no text was found in {counted.lines:,} records, so there is nothing to count.",
            hint=f"Name the field that holds the text with {option('text_field')}, or check the files.",
        )


def _warn_of_length(counted: Counted, encoder: str, options: CountOptions, callbacks: Callbacks) -> None:
    """Says so if documents were skipped that the other encoder would take."""
    limit, skipped = DOCUMENT_BYTES[encoder], counted.skipped[Reason.TOO_LONG]
    if options.max_document_bytes is None and limit < max(DOCUMENT_BYTES.values()) and skipped:
        callbacks.warn(
            f"documents of more than {limit:,} bytes were skipped ({skipped:,}): the {encoder} encoder takes hundreds of "
            f"times their size in memory. {option('max_document_bytes')} sets another limit."
        )


def _executor(how: RunOptions, counter: ShardCounter, run: CorpusRun) -> Executor:
    if how.engine == "ray":
        from frspec_cli.counting.ray_executor import RayExecutor

        return RayExecutor(counter.spec, how.workers)
    workers = min(how.workers or available_cores(), len(run.missing()))
    return InProcess(counter) if workers <= 1 else WorkerPool(counter, run.shards, workers)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _table(
    counted: Counted, tokenizer: LoadedTokenizer, encoder: dict[str, Any], options: CountOptions
) -> FrequencyTable:
    counted.accumulator.flush()
    metadata = {
        "tokenizer": tokenizer.record(),
        **corpus_record(counted.shards),
        "encoder": encoder,
        "options": options.recorded(),
    }
    return with_stability(FrequencyTable(counted.accumulator.counts, metadata, counted.accumulator.document_counts))


def with_stability(table: FrequencyTable) -> FrequencyTable:
    """The table with how sure its top-k is in its metadata."""
    return replace(table, metadata={**table.metadata, "stability": stability(table.by_fold())})


def corpus_record(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums over a table's shards, with the shards."""
    skipped, turns = (_by_reason(shards, name) for name in ("skipped", "skipped_turns"))
    sums = {name: sum(shard[name] for shard in shards) for name in ("lines", "documents", "tokens", "bytes")}
    record: dict[str, Any] = {**sums, "skipped": skipped}
    if turns:  # of conversations
        partly = sum(shard.get("partly_skipped", 0) for shard in shards)
        record |= {"skipped_turns": turns, "partly_skipped": partly}
    return record | {"shards": shards}


def _by_reason(shards: list[dict[str, Any]], name: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for shard in shards:
        for reason, count in shard.get(name, {}).items():
            counts[reason] = counts.get(reason, 0) + count
    return dict(sorted(counts.items()))


def _place(table: FrequencyTable, out: Path, ledger: Ledger) -> None:
    """Puts the table in its place and removes the ledger.

    It is written inside the ledger first, so that a run killed meanwhile leaves nothing that the next one does not clear
    away.
    """
    written = ledger.folder / "table.parquet"
    table.write(written)
    storage.place(written, out)
    ledger.remove()
