"""Where tasks run: in this process, or in worker processes. Every executor takes tasks and gives counts, in any order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from frspec_cli.corpus.shards import Shard
from frspec_cli.counting.accumulator import ShardCounts
from frspec_cli.counting.worker import CounterSpec, ShardCounter, ShardTask
from frspec_cli.errors import FrspecError, option
from frspec_cli.progress import Advance

PROGRESS_SECONDS = 0.25
QUEUED = 2
"""Tasks that a worker holds: one that it counts and one that waits, so that the worker never does."""


class Executor(Protocol):
    """Runs tasks: `start` them, take the `results` (task's index, its counts) as they are finished, `close`."""

    def start(self, tasks: Iterable[ShardTask]) -> None: ...

    def results(self, progress: Advance) -> Iterator[tuple[int, ShardCounts]]: ...

    def close(self) -> None: ...


class InProcess:
    """One task after another in this process: for small corpora, and the oracle of every other executor."""

    def __init__(self, counter: ShardCounter) -> None:
        self.counter = counter
        self.tasks: Iterable[ShardTask] = ()

    def start(self, tasks: Iterable[ShardTask]) -> None:
        """Nothing is counted before the results are asked for."""
        self.tasks = tasks

    def results(self, progress: Advance) -> Iterator[tuple[int, ShardCounts]]:
        """Yields in the order of the tasks."""
        for task in self.tasks:
            yield task.index, self.counter.count(task, progress)

    def close(self) -> None:
        """Nothing is left running."""


class WorkerPool:
    """Worker processes of this machine, few and long-lived: an encoder that learns words is slow only once.

    Where it is safe they are forked with the counter that was built here, and count at once; else they are new
    processes that build their own. A worker that dies (the kernel kills a process that takes too much memory) ends the
    run with an error that says so.
    """

    def __init__(self, counter: ShardCounter, shards: list[Shard], workers: int) -> None:
        self.counter = counter
        self.shards = shards
        self.count = workers
        self.workers: list[_Worker] = []
        self.waiting: Iterator[ShardTask] = iter(())

    def start(self, tasks: Iterable[ShardTask]) -> None:
        """Starts the workers and gives them their first tasks."""
        self.waiting = iter(tasks)
        # With other threads alive a fork may copy a lock that nobody will open again.
        forks = sys.platform == "linux" and threading.active_count() == 1
        context = multiprocessing.get_context("fork" if forks else "spawn")
        for _ in range(self.count):
            # A fork holds the parent's ends of the pipes too; one left open would hide from a worker that its parent is gone.
            inherited = [worker.connection for worker in self.workers] if forks else None
            self.workers.append(_Worker(context, self.counter, self.shards, inherited))
        for _ in range(QUEUED):
            for worker in self.workers:
                worker.give(next(self.waiting, None))

    def results(self, progress: Advance) -> Iterator[tuple[int, ShardCounts]]:
        """Yields whatever is finished first."""
        while busy := [worker for worker in self.workers if worker.tasks]:
            for worker in _ready(busy):
                answer = worker.take()
                if isinstance(answer, ShardCounts):
                    task = worker.tasks.popleft()
                    worker.give(next(self.waiting, None))
                    yield task.index, answer
                else:
                    progress(**answer)

    def close(self) -> None:
        """Ends the workers, whatever they are doing."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()
        self.workers = []


class _Worker:
    """The parent's side of a worker: its process, its pipe, and the tasks that it holds."""

    def __init__(
        self, context: Any, counter: ShardCounter, shards: list[Shard], inherited: list[Connection] | None
    ) -> None:
        """inherited: the parent's ends that a fork has to close; None for a new process, which gets no built counter."""
        self.connection, theirs = context.Pipe()
        self.tasks: deque[ShardTask] = deque()
        built, closed = (None, []) if inherited is None else (counter, [self.connection, *inherited])
        self.process = context.Process(target=_serve, args=(theirs, counter.spec, shards, built, closed), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, task: ShardTask | None) -> None:
        if task is not None:
            self.tasks.append(task)
            try:
                # Never the shard itself: what does not fit into the pipe waits for the worker, which may wait for us.
                self.connection.send((task.index, task.limit_documents, task.limit_tokens))
            except OSError:
                raise self._died() from None

    def take(self) -> ShardCounts | dict[str, int]:
        """The counts of the first task, or progress with it. Raises what went wrong in the worker."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            raise self._died() from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _died(self) -> FrspecError:
        self.process.join(1)
        name = self.tasks[0].shard.name if self.tasks else "nothing"
        return FrspecError(
            f"a worker died while it counted {name} (exit code {self.process.exitcode}).",
            hint=f"Exit code -9 often means too little memory: try fewer {option('workers')}. "
            "Run the same command again to resume.",
        )


def _ready(workers: list[_Worker]) -> list[_Worker]:
    ready = wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in ready]


def _serve(
    connection: Connection,
    spec: CounterSpec,
    shards: list[Shard],
    built: ShardCounter | None,
    inherited: list[Connection],
) -> None:
    """A worker process: builds the counter once, then answers every task with its counts, or with what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    for other in inherited:
        other.close()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism
    answer: ShardCounts | BaseException
    try:
        counter = built or _built_early(spec)
        while True:
            index, documents, tokens = connection.recv()
            task = ShardTask(index, shards[index], documents, tokens)
            try:
                counter = counter or ShardCounter(spec)
                progress = _Throttled(connection.send)
                answer = counter.count(task, progress)
                progress.flush()
            except Exception as error:  # handed to the parent, which raises it
                answer = portable(error)
            connection.send(answer)
    except (EOFError, OSError):
        return  # the parent is gone or has closed the pipe


def _built_early(spec: CounterSpec) -> ShardCounter | None:
    """The counter, built before the first task comes; None if that fails: the first task's answer will then say why."""
    try:
        return ShardCounter(spec)
    except FrspecError:
        return None


def portable(error: Exception) -> BaseException:
    """The error as it can be sent: known ones as they are, unknown ones with the worker's traceback in their text."""
    if isinstance(error, FrspecError):
        return FrspecError(error.message, hint=error.hint)
    return RuntimeError("in a worker:\n" + "".join(traceback.format_exception(error)))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Throttled:
    """Adds progress up and passes it on a few times a second."""

    def __init__(self, send: Callable[[dict[str, int]], None]) -> None:
        self.send = send
        self.sums: Counter[str] = Counter()
        self.last = time.monotonic()

    def __call__(self, **amounts: int) -> None:
        self.sums.update(amounts)
        if time.monotonic() - self.last > PROGRESS_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Passes on what is held back, if anything is."""
        if self.sums:
            self.send(dict(self.sums))
        self.sums, self.last = Counter(), time.monotonic()
