"""From sources to a table on disk: chooses the encoder, runs, keeps the ledger, writes the file."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from frspec_cli.corpus.shards import Shard
from frspec_cli.counting.accumulator import ShardCounts
from frspec_cli.counting.encoder_selection import check_encoder, recheck_samples, reference_record, select_fast_encoder
from frspec_cli.counting.executors import CounterSpec, Executor, InProcess, WorkerPool
from frspec_cli.counting.ledger import Ledger, begun_with, ledger_folder, make_plan
from frspec_cli.counting.options import CountOptions, Listener, RunOptions
from frspec_cli.counting.run import CorpusRun, Counted
from frspec_cli.counting.stability import fold_totals, stability
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.counting.worker import Progress, ShardCounter, ShardTask, silent
from frspec_cli.errors import FrspecError
from frspec_cli.models.locate import locate_tokenizer
from frspec_cli.tokens.encoder import Encoder, EncoderSpec, ReferenceEncoder
from frspec_cli.tokens.encoder_check import EncodersDiffer
from frspec_cli.tokens.fast import FastEncoder
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer


@dataclass(frozen=True)
class CountResult:
    """A table that was written, and what is worth telling about it."""

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
    listener: Listener | None = None,
) -> CountResult:
    """Counts the shards with the tokenizer of that name into a table at `out`.

    Killed and called again alike, it goes on and writes the same bytes. Raises `FrspecError` for broken files, too many
    bad records, a ledger of other inputs, a folder that is read-only.
    """
    options, how, listener = options or CountOptions(), how or RunOptions(), listener or Listener()
    began = time.monotonic()
    out = Path(out)
    check_writable(out)
    _check_not_read(out, shards)
    job = _Job(shards, tokenizer, str(locate_tokenizer(tokenizer)), out, options, how, listener)
    try:
        counted, table = job.run(how.encoder)
    except EncodersDiffer as error:
        if how.encoder != "auto":
            raise
        listener.say(f"counting again with the reference encoder: {error.message}")
        counted, table = job.run("reference", restart=True)
    return CountResult(out, table, counted.lines, time.monotonic() - began, counted.stopped, counted.examples)


@dataclass(frozen=True)
class _Job:
    """What `count_corpus` was asked for; `run` does it with one choice of encoder. path: of the tokenizer.json."""

    shards: list[Shard]
    tokenizer: str
    path: str
    out: Path
    options: CountOptions
    how: RunOptions
    listener: Listener

    @property
    def mine(self) -> list[Shard]:
        """The shards that are counted here."""
        return self.shards[self.how.shard[0] - 1 :: self.how.shard[1]]

    @property
    def cores(self) -> int:
        """Cores that may be used here."""
        return self.how.workers or available_cores()

    def run(self, encoder: str, *, restart: bool = False) -> tuple[Counted, FrequencyTable]:
        """Counts, writes the table, drops the ledger. Raises `EncodersDiffer` when the fast encoder was caught."""
        folder = ledger_folder(self.out)
        fast = select_fast_encoder(
            encoder,
            self.path,
            begun_with=None if self.how.restart else begun_with(folder),
            threads=len(self.mine) == 1 and self.cores > 1,
            say=self.listener.say,
        )
        reference = _Reference(self.tokenizer)
        rows = fast.rows if fast else reference.get().highest_id + 1
        spec = CounterSpec(EncoderSpec("fast" if fast else "reference", self.path), rows, self.options)
        plan = make_plan(
            tokenizer=self.path, encoder=spec.encoder.name, options=self.options.recorded(), shards=self.mine
        )
        with Ledger.opened(folder, plan, self.mine, restart=restart or self.how.restart) as ledger:
            counted, record = self._count(spec, fast, reference, ledger)
            table = _table(counted, reference.get(), record, self.options)
            _place(table, self.out, ledger)
        return counted, table

    def _count(
        self, spec: CounterSpec, fast: FastEncoder | None, reference: _Reference, ledger: Ledger
    ) -> tuple[Counted, dict[str, Any]]:
        """The corpus counted, and what is to be recorded of the encoder. While the workers begin, this process loads
        the reference and holds the fast encoder against it."""
        run = CorpusRun(
            self.mine,
            spec.rows,
            self.options,
            max_bad=self.how.max_bad,
            ledger=ledger,
            recheck=lambda part: recheck_samples(part, reference.get()),
            finished=self.listener.finished,
        )
        done = run.resume()
        left = sum(self.mine[index].size for index in run.missing())
        counter = _Lazy(spec, fast or ReferenceEncoder(reference.get()))
        record: dict[str, Any] = {}

        def meanwhile() -> None:
            if done:
                self.listener.say(f"{done} of {len(self.mine)} shards were counted before; going on.")
            self.listener.begin(left)
            loaded = reference.get()
            record.update(
                check_encoder(fast, loaded, self.shards, self.options.fields) if fast else reference_record(loaded)
            )
            _ = loaded.fingerprint  # a cached property, worked out while the workers count

        engine = self._engine(spec, counter, len(self.mine) - done)
        return run.run(engine, counter.count, self.listener.progress, meanwhile=meanwhile), record

    def _engine(self, spec: CounterSpec, counter: _Lazy, shards: int) -> Executor:
        if self.how.engine == "ray":
            from frspec_cli.counting.ray_executor import RayExecutor

            return RayExecutor(spec, self.how.workers)
        workers = min(self.cores, shards)
        if workers <= 1:
            return InProcess(counter)
        return WorkerPool(spec, self.mine, workers, counter.get())


class _Reference:
    """The reference tokenizer, loaded when it is first needed: after the workers have something to do."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._loaded: LoadedTokenizer | None = None

    def get(self) -> LoadedTokenizer:
        self._loaded = self._loaded or load_tokenizer(self.name)
        return self._loaded


class _Lazy:
    """This process's own counter, made when it is first needed."""

    def __init__(self, spec: CounterSpec, encoder: Encoder) -> None:
        self.spec = spec
        self.encoder = encoder
        self._counter: ShardCounter | None = None

    def get(self) -> ShardCounter:
        self._counter = self._counter or self.spec.build(self.encoder)
        return self._counter

    def count(self, task: ShardTask, progress: Progress = silent) -> ShardCounts:
        """See `ShardCounter.count`."""
        return self.get().count(task, progress)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_writable(out: Path) -> None:
    """Finds out before the work whether the output can be written. Raises `FrspecError` where it cannot."""
    if out.is_dir():
        raise FrspecError(f"{out} is a folder.", hint="Give --out the name of a file, such as counts.parquet.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise FrspecError(f"{out.parent} is no folder.", hint="Choose another --out.") from None
    except OSError as error:
        raise FrspecError(f"{out.parent} cannot be made: {error.strerror}.", hint="Choose another --out.") from error
    if not os.access(out.parent, os.W_OK):
        raise FrspecError(f"{out.parent} cannot be written to.", hint="Choose another --out.")


def _check_not_read(out: Path, shards: list[Shard]) -> None:
    """Raises `FrspecError` where the table would be written over text that is counted."""
    if not out.exists():
        return
    named_so = (path for shard in shards for path in shard.paths if Path(path).name == out.name)
    if any(os.path.exists(path) and os.path.samefile(path, out) for path in named_so):
        raise FrspecError(f"--out {out} is a file that is counted.", hint="Give the table another name.")


def _table(
    counted: Counted, tokenizer: LoadedTokenizer, encoder: dict[str, Any], options: CountOptions
) -> FrequencyTable:
    counted.tally.flush()
    metadata = {
        "tokenizer": tokenizer.record(),
        **corpus_record(counted.shards),
        "encoder": encoder,
        "options": options.recorded(),
    }
    return with_stability(FrequencyTable(counted.tally.counts, metadata, counted.tally.document_counts))


def with_stability(table: FrequencyTable) -> FrequencyTable:
    """The table with how sure its top-k is in its metadata."""
    return replace(table, metadata={**table.metadata, "stability": stability(fold_totals(table))})


def corpus_record(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums over a table's shards, with the shards."""
    skipped: dict[str, int] = {}
    for shard in shards:
        for reason, count in shard["skipped"].items():
            skipped[reason] = skipped.get(reason, 0) + count
    sums = {name: sum(shard[name] for shard in shards) for name in ("lines", "documents", "tokens", "bytes")}
    return {**sums, "skipped": dict(sorted(skipped.items())), "shards": shards}


def _place(table: FrequencyTable, out: Path, ledger: Ledger) -> None:
    """Puts the table in its place and drops the ledger. It is written inside the ledger first, so that a run killed
    at this moment leaves nothing that the next one does not clear away."""
    written = ledger.folder / "table.parquet"
    table.write(written)
    try:
        os.replace(written, out)
    except OSError as error:
        raise FrspecError(f"{out} cannot be written: {error.strerror}.", hint="Choose another --out.") from error
    ledger.remove()
