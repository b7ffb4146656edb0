"""The same shard function as tasks on a Ray cluster: retried elsewhere if a node dies.

The corpus must be readable under the same paths or URLs on every node, and frspec installed there; the tokenizer's files
travel with the tasks.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from frspec_cli.counting.accumulator import ShardCounts
from frspec_cli.counting.executors import portable
from frspec_cli.counting.worker import CounterSpec, ShardCounter, ShardTask
from frspec_cli.errors import FrspecError, option
from frspec_cli.progress import Advance

RETRIES = 20
AHEAD = 2
"""Tasks under way or waiting, for every CPU of the cluster."""
_BESIDE = ("tokenizer_config.json", "config.json", "generation_config.json", "chat_template.jinja")


class RayExecutor:
    """Runs tasks on the cluster that `RAY_ADDRESS` names, else on this machine's, else on one made here.

    workers: the most tasks at once; None: two for every CPU of the cluster.
    Raises `FrspecError` if Ray is not installed or cannot be reached.
    """

    def __init__(self, spec: CounterSpec, workers: int | None = None) -> None:
        self.ray = _import_ray()
        self.spec = spec
        self.workers = workers
        self.waiting: Iterator[ShardTask] = iter(())
        self.running: dict[Any, ShardTask] = {}
        self.ours = False

    def start(self, tasks: Iterable[ShardTask]) -> None:
        """Connects, and hands out the first tasks."""
        self._connect()
        files = _tokenizer_files(self.spec.tokenizer)
        self.files = self.ray.put(files)
        # Ray retries what a dying node takes with it; what the function raises is not retried and comes back.
        self.remote = self.ray.remote(num_cpus=1, max_retries=RETRIES)(_count)
        self.waiting = iter(tasks)
        self._fill()

    def results(self, progress: Advance) -> Iterator[tuple[int, ShardCounts]]:
        """Yields whatever is finished first."""
        while self.running:
            ready, _ = self.ray.wait(list(self.running), num_returns=1)
            task = self.running.pop(ready[0])
            part = self._get(ready[0], task)
            self._fill()
            amounts = {name: part.total(name) for name in ("documents", "bytes", "tokens")}
            progress(**amounts, read=part.total("size"))
            yield task.index, part

    def close(self) -> None:
        """Cancels what is still running; a cluster that was made here ends."""
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        self.running = {}
        if self.ours:
            self.ray.shutdown()

    def _connect(self) -> None:
        if self.ray.is_initialized():
            return
        try:
            self.ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            if "RAY_ADDRESS" in os.environ:
                raise FrspecError(f"the Ray cluster at RAY_ADDRESS cannot be reached: {error}.") from None
            self.ray.init(address="local", log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        self.ours = True

    def _fill(self) -> None:
        limit = self.workers or AHEAD * max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        while len(self.running) < limit and (task := next(self.waiting, None)) is not None:
            self.running[self.remote.remote(self.spec, self.files, task)] = task

    def _get(self, reference: Any, task: ShardTask) -> ShardCounts:
        try:
            answer = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise FrspecError(
                f"the cluster gave up on {task.shard.name}: {reason}.", hint="Run the same command again to resume."
            ) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise FrspecError(f"{option('engine')} ray needs Ray.", hint="pip install ray, or 'frspec[ray]'.") from None
    return ray


def _tokenizer_files(path: str) -> dict[str, bytes]:
    """The tokenizer's files by name, those beside the tokenizer.json too: conversations need the chat template."""
    files = [Path(path), *(Path(path).with_name(name) for name in _BESIDE)]
    return {"tokenizer.json": files[0].read_bytes()} | {
        file.name: file.read_bytes() for file in files[1:] if file.is_file()
    }


def _count(spec: CounterSpec, files: dict[str, bytes], task: ShardTask) -> ShardCounts | BaseException:
    """Runs on a node: the counter is built once for every process that Ray keeps there."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        return _counter(spec, _Files(files)).count(task)
    except Exception as error:  # handed to the driver, which raises it
        return portable(error)


class _Files:
    """Files by their hash, so that a cache may be keyed by them, and a folder for them that is removed with the cache."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.key = tuple((name, hashlib.sha256(files[name]).hexdigest()) for name in sorted(files))

    @functools.cached_property
    def folder(self) -> tempfile.TemporaryDirectory[str]:
        """Made when it is first needed."""
        return tempfile.TemporaryDirectory(prefix="frspec-")

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Files) and other.key == self.key


@functools.lru_cache(maxsize=2)
def _counter(spec: CounterSpec, files: _Files) -> ShardCounter:
    for name, content in files.files.items():
        Path(files.folder.name, name).write_bytes(content)
    path = str(Path(files.folder.name, "tokenizer.json"))
    return ShardCounter(replace(spec, tokenizer=path))
