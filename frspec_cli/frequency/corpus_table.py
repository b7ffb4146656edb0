"""From sources to a table on disk: finds the shards, chooses the encoder, runs, keeps the ledger, writes the file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from frspec_cli.corpus.shards import Shard
from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.frequency.choice import Choice, choose, confirm
from frspec_cli.frequency.counting import Progress, ShardCounter, Task, silent
from frspec_cli.frequency.engines import CounterSpec, Engine, InProcess, WorkerPool
from frspec_cli.frequency.ledger import Ledger, begun_with, ledger_folder, make_plan
from frspec_cli.frequency.options import CountOptions
from frspec_cli.frequency.run import CorpusRun, Counted
from frspec_cli.frequency.stability import fold_totals, stability
from frspec_cli.frequency.table import FrequencyTable
from frspec_cli.frequency.tally import Part
from frspec_cli.tokens.chat import ChatSpec
from frspec_cli.tokens.gate import EncodersDiffer
from frspec_cli.tokens.template import chat_template, end_of_turn
from frspec_cli.tokens.tokenizer import LoadedTokenizer


@dataclass(frozen=True)
class HowToRun:
    """What does not change the result: workers (None: one a core), engine, the share of bad records that is borne.

    shard: (I, N), 1 <= I <= N: of the corpus's shards every N-th, from the I-th on. restart: drop what a ledger holds.
    """

    encoder: str = "auto"
    workers: int | None = None
    engine: str = "local"
    max_bad: float = 0.01
    shard: tuple[int, int] = (1, 1)
    restart: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers must be at least 1, not {self.workers}.")
        if not 0 <= self.max_bad <= 1:
            raise UsageError(f"--max-bad is a share between 0 and 1, not {self.max_bad:g}.")
        index, count = self.shard
        if not 1 <= index <= count:
            raise UsageError(f"--shard is I/N with 1 <= I <= N, not {index}/{count}.")


@dataclass(frozen=True)
class Listener:
    """Who is told what happens: `say` gets sentences, `progress` (documents, bytes, tokens) just counted, `begin` the
    size on disk of all that is to be read, `finished` that of what is read."""

    say: Callable[[str], None] = lambda text: None
    progress: Progress = lambda documents, size, tokens: None
    begin: Callable[[int], None] = lambda size: None
    finished: Callable[[int], None] = lambda size: None


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
    tokenizer: LoadedTokenizer,
    out: Path | str,
    *,
    options: CountOptions | None = None,
    how: HowToRun | None = None,
    listener: Listener | None = None,
) -> CountResult:
    """Counts the shards into a table at `out`. Killed and called again alike, it goes on and writes the same bytes.

    Raises `FrspecError` for broken files, too many bad records, a ledger of other inputs, a folder that is read-only.
    """
    options, how, listener = options or CountOptions(), how or HowToRun(), listener or Listener()
    began = time.monotonic()
    out = Path(out)
    check_writable(out)
    job = _Job(shards, tokenizer, out, options, how, listener)
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
    """What `count_corpus` was asked for; `run` does it with one choice of encoder."""

    shards: list[Shard]
    tokenizer: LoadedTokenizer
    out: Path
    options: CountOptions
    how: HowToRun
    listener: Listener

    def run(self, encoder: str, *, restart: bool = False) -> tuple[Counted, FrequencyTable]:
        """Counts, writes the table, drops the ledger. Raises `EncodersDiffer` when the fast encoder was caught."""
        folder = ledger_folder(self.out)
        mine = self.shards[self.how.shard[0] - 1 :: self.how.shard[1]]
        cores = self.how.workers or available_cores()
        choice = choose(
            encoder,
            self.tokenizer,
            self.shards,
            self.options.fields,
            begun_with=None if self.how.restart else begun_with(folder),
            threads=len(mine) == 1 and cores > 1,
            say=self.listener.say,
        )
        recheck = choice.spec.name == "fast"
        rows = self.tokenizer.highest_id + 1
        chat = _chat_spec(self.tokenizer, self.options)
        spec = CounterSpec(choice.spec, rows, self.options, recheck=recheck, chat=chat)
        plan = make_plan(
            tokenizer=self.tokenizer.fingerprint,
            encoder=choice.spec.name,
            options=self.options.recorded(),
            shards=mine,
        )
        with Ledger.opened(folder, plan, mine, restart=restart or self.how.restart) as ledger:
            counted = self._count(spec, mine, cores, ledger)
            table = _table(counted, self.tokenizer, choice, self.options)
            _place(table, self.out, ledger)
        return counted, table

    def _count(self, spec: CounterSpec, mine: list[Shard], cores: int, ledger: Ledger) -> Counted:
        run = CorpusRun(
            mine,
            spec.rows,
            self.options,
            max_bad=self.how.max_bad,
            ledger=ledger,
            confirm=lambda part: confirm(part, self.tokenizer),
            finished=self.listener.finished,
        )
        if done := run.resume():
            self.listener.say(f"{done} of {len(mine)} shards were counted before; going on.")
        self.listener.begin(sum(shard.size for shard in mine))
        counter = _Lazy(spec)
        workers = min(cores, len(mine) - done)
        engine: Engine = InProcess(counter) if workers <= 1 else WorkerPool(spec, workers)
        return run.run(engine, counter.count, self.listener.progress)


class _Lazy:
    """This process's own counter, made when it is first needed."""

    def __init__(self, spec: CounterSpec) -> None:
        self.spec = spec
        self._counter: ShardCounter | None = None

    def count(self, task: Task, progress: Progress = silent) -> Part:
        """See `ShardCounter.count`."""
        self._counter = self._counter or self.spec.build()
        return self._counter.count(task, progress)


def _chat_spec(tokenizer: LoadedTokenizer, options: CountOptions) -> ChatSpec:
    return ChatSpec(
        tokenizer=str(tokenizer.path),
        rows=tokenizer.highest_id + 1,
        template=chat_template(tokenizer),
        turn_end=end_of_turn(tokenizer),
        assistant_only=options.assistant_only,
    )


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_writable(out: Path) -> None:
    """Finds out before the work whether the output can be written. Raises `FrspecError` where it cannot."""
    if out.is_dir():
        raise FrspecError(f"{out} is a folder.", hint="Give --out the name of a file, such as counts.parquet.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FrspecError(f"{out.parent} cannot be made: {error.strerror}.", hint="Choose another --out.") from error
    if not os.access(out.parent, os.W_OK):
        raise FrspecError(f"{out.parent} cannot be written to.", hint="Choose another --out.")


def tokenizer_record(tokenizer: LoadedTokenizer) -> dict[str, Any]:
    """A tokenizer as a table's metadata names it."""
    return {
        "reference": tokenizer.reference,
        "fingerprint": tokenizer.fingerprint,
        "size": tokenizer.size,
        "highest_id": tokenizer.highest_id,
        "model_rows": tokenizer.model_rows,
        "forced": {str(index): reason for index, reason in tokenizer.forced_candidates.items()},
    }


def _table(counted: Counted, tokenizer: LoadedTokenizer, choice: Choice, options: CountOptions) -> FrequencyTable:
    counted.tally.flush()
    metadata = {
        "tokenizer": tokenizer_record(tokenizer),
        **corpus_record(counted.shards),
        "encoder": choice.record,
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
