"""From a corpus to a table on disk: chooses the encoder, runs, keeps the ledger, writes the file."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from frspec_cli import outputs, storage
from frspec_cli.corpus.shards import Shard
from frspec_cli.counting.encoder_selection import check_encoder, recheck_samples, reference_of, select_fast_encoder
from frspec_cli.counting.executors import Executor, InProcess, WorkerPool
from frspec_cli.counting.ledger import Ledger, begun_with, make_plan
from frspec_cli.counting.options import CountOptions, RunOptions
from frspec_cli.counting.run import CorpusRun, Counted
from frspec_cli.counting.stability import stability
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.counting.worker import CounterSpec, ShardCounter
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
    out = outputs.check(out, inputs=read, replaces=outputs.PARQUET, what="a frequency table")
    try:
        counted, table = _count_and_write(shards, tokenizer, out, options, how, callbacks)
    except EncodersDiffer as error:
        if how.encoder != "auto":
            raise
        callbacks.say(f"counting again with the reference encoder: {error.message}")
        how = replace(how, encoder="reference", restart=True)
        counted, table = _count_and_write(shards, tokenizer, out, options, how, callbacks)
    return CountResult(out, table, counted.lines, time.monotonic() - began, counted.stopped, counted.examples)


def _count_and_write(
    shards: list[Shard], tokenizer: str, out: Path, options: CountOptions, how: RunOptions, callbacks: Callbacks
) -> tuple[Counted, FrequencyTable]:
    """Counts with one choice of encoder, writes the table, removes the ledger.

    Raises `EncodersDiffer` if the fast encoder gave an id that the reference does not give.
    """
    mine = shards[how.shard[0] - 1 :: how.shard[1]]
    cores = how.workers or available_cores()
    path, folder = str(locate_tokenizer(tokenizer)), run_folder(out)
    fast = select_fast_encoder(
        how.encoder,
        path,
        begun_with=None if how.restart else begun_with(folder),
        threads=len(mine) == 1 and cores > 1,
        say=callbacks.say,
    )
    encoder = fast or ReferenceEncoder(load_tokenizer(tokenizer))
    spec = CounterSpec(encoder.name, path, encoder.rows, options)
    plan = make_plan(tokenizer=path, encoder=encoder.name, options=options.recorded(), shards=mine)
    with Ledger.opened(folder, plan, mine, restart=how.restart) as ledger:
        counter = ShardCounter(spec, encoder)
        run = CorpusRun(
            mine,
            spec.rows,
            options,
            max_bad=how.max_bad,
            ledger=ledger,
            recount=counter.count,
            finished=callbacks.finished,
        )
        resumed = run.resume()
        executor = _executor(how.engine, counter, mine, workers=how.workers, local=min(cores, len(mine) - resumed))
        try:
            executor.start(run.tasks())
            # From here on the workers count. What this process has to load and check meanwhile costs no time of its own
            # (1 s with SmolLM2's tokenizer, 5 s with Gemma's), and threads that it starts are not copied into a fork.
            if resumed:
                callbacks.say(f"{resumed} of {len(mine)} shards were counted before; resuming.")
            callbacks.begin(sum(mine[index].size for index in run.missing()))
            loaded = encoder.tokenizer if isinstance(encoder, ReferenceEncoder) else load_tokenizer(tokenizer)
            encoder_record = check_encoder(counter.encoder, loaded, shards, options.fields)
            _ = loaded.fingerprint  # a cached property
            reference = reference_of(counter.encoder, loaded)
            for index, part in executor.results(callbacks.advance):
                recheck_samples(part, reference)
                run.add(index, part)
                if run.counted.stopped:
                    break
        finally:
            executor.close()
        counted = run.finish()
        table = _table(counted, loaded, encoder_record, options)
        _place(table, out, ledger)
    return counted, table


def _executor(engine: str, counter: ShardCounter, shards: list[Shard], *, workers: int | None, local: int) -> Executor:
    """workers: as asked for. local: worker processes that pay on this machine."""
    if engine == "ray":
        from frspec_cli.counting.ray_executor import RayExecutor

        return RayExecutor(counter.spec, workers)
    return InProcess(counter) if local <= 1 else WorkerPool(counter.spec, shards, local, counter)


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
    skipped: dict[str, int] = {}
    for shard in shards:
        for reason, count in shard["skipped"].items():
            skipped[reason] = skipped.get(reason, 0) + count
    sums = {name: sum(shard[name] for shard in shards) for name in ("lines", "documents", "tokens", "bytes")}
    return {**sums, "skipped": dict(sorted(skipped.items())), "shards": shards}


def _place(table: FrequencyTable, out: Path, ledger: Ledger) -> None:
    """Puts the table in its place and removes the ledger.

    It is written inside the ledger first, so that a run killed meanwhile leaves nothing that the next one does not clear
    away.
    """
    written = ledger.folder / "table.parquet"
    table.write(written)
    storage.place(written, out)
    ledger.remove()
