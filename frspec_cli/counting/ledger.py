"""What is counted already, kept beside the output so that a killed run resumes where it stopped.

A ledger is a run folder (see `resume`): `plan.json` says what is being counted (a key over tokenizer, options, shards,
version), every `AAAAAAAA-BBBBBBBB.npz` holds the counts of the shards A to B, each appearing whole or not at all.
Finished neighbours are joined now and then, so that the folder does not grow with the corpus.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from frspec_cli import schema, storage
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import content_digest
from frspec_cli.counting.accumulator import ShardCounts
from frspec_cli.counting.options import LEDGER_VERSION
from frspec_cli.counting.table import FOLDS
from frspec_cli.errors import FrspecError, option
from frspec_cli.resume import RunFolder, first_difference, shown

_PLAN = "plan.json"
_ENTRY = re.compile("[0-9]{8}-[0-9]{8}")
_DECIDES = {
    "tokenizer_config.json": "chat template, end-of-sequence token",
    "config.json": "end-of-sequence tokens, vocabulary rows",
    "generation_config.json": "end-of-sequence tokens",
    "chat_template.jinja": "chat template",
}
"""What the files beside a tokenizer.json decide in a table."""


class _Version(schema.Schema):
    version: int
    encoder: str


class _Plan(_Version):
    tokenizer: str
    beside: dict[str, str]
    options: dict[str, Any]
    shards: list[Annotated[tuple[str, int, int, str, int, Any], Field(strict=False)]]
    stamps: list[str]

    @model_validator(mode="after")
    def _a_stamp_each(self) -> _Plan:
        if len(self.stamps) != len(self.shards):
            raise ValueError("a stamp for each shard")
        return self


def begun_with(folder: Path) -> str | None:
    """The encoder of an unfinished run; None if there is no such run."""
    plan = _plan(folder / _PLAN)
    return None if plan is None else plan.get("encoder")


def _plan(path: Path) -> dict[str, Any] | None:
    """The plan in a file; None if there is none, or none that can be read (the machine lost power)."""
    try:
        plan = schema.parse_json(path.read_bytes(), path)
        if schema.check(_Version, plan, path).version == LEDGER_VERSION:
            schema.check(_Plan, plan, path)
    except (OSError, FrspecError):
        return None
    return plan


def make_plan(*, tokenizer: str, encoder: str, options: dict[str, Any], shards: list[Shard]) -> dict[str, Any]:
    """What decides the counts, as JSON: a ledger may be resumed only under an equal plan.

    tokenizer: the path of the tokenizer.json. Its bytes and those of the files beside it are the key: that costs less
        than loading them.
    """
    listed = [[shard.label, shard.start, len(shard.paths), shard.format, shard.size, shard.source] for shard in shards]
    files = [Path(tokenizer).with_name(name) for name in _DECIDES]
    return {
        "version": LEDGER_VERSION,
        "tokenizer": storage.sha256_file(tokenizer),
        "beside": {path.name: storage.sha256_file(path) for path in files if path.is_file()},
        "encoder": encoder,
        "options": options,
        "shards": listed,
        "stamps": [shard.stamp for shard in shards],
    }


class Ledger:
    """The open ledger of one run; `opened` makes one."""

    def __init__(self, run_folder: RunFolder, plan: dict[str, Any]) -> None:
        self.run_folder = run_folder
        self.folder = run_folder.folder
        self.plan = plan
        self._intact: set[tuple[int, int]] = set()  # entries that are known to be readable

    @staticmethod
    @contextmanager
    def opened(folder: Path, plan: dict[str, Any], shards: list[Shard], *, restart: bool = False) -> Iterator[Ledger]:
        """The ledger at `folder`, new or resumed; no second process may have it at the same time.

        Raises `FrspecError` if another run holds it, or if its plan differs, naming the difference.
        """
        with RunFolder.opened(folder) as run_folder:
            ledger = Ledger(run_folder, plan)
            if restart:
                ledger.forget()
            ledger._check(shards)
            try:
                yield ledger
            finally:
                ledger.remove_if_empty()

    def _check(self, shards: list[Shard]) -> None:
        path = self.folder / _PLAN
        old = _plan(path)
        if old is None:
            self.forget()
            _write(path, lambda file: file.write(json.dumps(self.plan).encode()))
            return
        difference = _difference(old, self.plan)
        if difference and not self._holds_counts():
            self.forget()
            self._check(shards)
            return
        if difference:
            raise FrspecError(
                f"{self.folder} belongs to a stopped run with other inputs: {difference}.",
                hint=f"Use the same inputs to resume, or {option('restart')} to count from the beginning.",
            )
        self._check_stamps(old, shards)

    def _check_stamps(self, old: dict[str, Any], shards: list[Shard]) -> None:
        """A file that was touched but is as it was may stay; one that was counted and has changed may not."""
        if old["stamps"] == self.plan["stamps"]:
            return
        pairs = zip(old["stamps"], self.plan["stamps"], strict=True)
        self._compare({index for index, (was, now) in enumerate(pairs) if was != now}, shards)
        _write(self.folder / _PLAN, lambda file: file.write(json.dumps(self.plan).encode()))

    def check_unchanged(self, shards: list[Shard]) -> None:
        """Raises `FrspecError` if a file that was counted is another by now: it was edited since it was listed."""
        stamps = [shard.current_stamp() for shard in shards]
        now = zip(stamps, self.plan["stamps"], strict=True)
        self._compare({index for index, (stamp, listed) in enumerate(now) if stamp and stamp != listed}, shards)

    def _compare(self, indices: set[int], shards: list[Shard]) -> None:
        """Reads the given shards again. Raises `FrspecError` if one is not what was counted."""
        for first, last in self.entries() if indices else []:
            counted = dict(zip(range(first, last + 1), self.get(first, last).shards, strict=True))
            for index in sorted(indices & counted.keys()):
                if content_digest(shards[index]) == counted[index]["sha256"]:
                    continue
                raise FrspecError(
                    f"{counted[index]['path']} has changed since it was counted.",
                    hint=f"Use {option('restart')} to count from the beginning.",
                )

    def entries(self) -> list[tuple[int, int]]:
        """(first shard, last shard) of every entry, in order.

        Entries that a joined one covers are dropped, and so are those that cannot be read (the machine lost power).
        """
        stems = [path.stem for path in self.folder.glob("*-*.npz") if _ENTRY.fullmatch(path.stem)]
        every = [tuple(map(int, stem.split("-"))) for stem in stems]
        kept: list[tuple[int, int]] = []
        for first, last in sorted(every, key=lambda entry: (entry[0], -entry[1])):
            if (kept and last <= kept[-1][1]) or not self._readable(first, last):
                self._path(first, last).unlink()
            else:
                kept.append((first, last))
        return kept

    def _readable(self, first: int, last: int) -> bool:
        if (first, last) not in self._intact:
            try:
                _check_entry(_load(self._path(first, last)), last - first + 1)
            except Exception:  # what zipfile and numpy raise for damaged data is no closed list
                return False
            self._intact.add((first, last))
        return True

    def get(self, first: int, last: int) -> ShardCounts:
        """The counts of an entry."""
        return _load(self._path(first, last))

    def put(self, first: int, last: int, part: ShardCounts) -> None:
        """Adds the counts of the shards `first` to `last`, whole or not at all."""
        meta = {"sources": part.sources, "shards": part.shards, "examples": part.examples}
        arrays: dict[str, Any] = {"key": part.key, "token": part.token, "count": part.count}
        if part.documents is not None:
            arrays["documents"] = part.documents
        packed = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        _write(self._path(first, last), lambda file: np.savez(file, meta=packed, **arrays))
        self._intact.add((first, last))

    def join(self, last: int, part: ShardCounts) -> None:
        """Puts `part`, the counts of all shards up to `last`, in the place of their single entries."""
        self.put(0, last, part)
        for path in self.folder.glob("*-*.npz"):
            if _ENTRY.fullmatch(path.stem) and int(path.stem.split("-")[1]) <= last and path != self._path(0, last):
                path.unlink()

    def forget(self) -> None:
        """Drops all entries and the plan."""
        self.run_folder.clear()

    def remove_if_empty(self) -> None:
        """Removes the folder of a run that ended before anything was counted: there is nothing to resume."""
        if self.folder.is_dir() and not self._holds_counts():
            self.remove()

    def _holds_counts(self) -> bool:
        """Whether a document was counted in any entry."""
        return any(self.get(*entry).total("documents") for entry in self.entries())

    def remove(self) -> None:
        """Removes the folder: the output is complete."""
        self.run_folder.remove()

    def _path(self, first: int, last: int) -> Path:
        return self.folder / f"{first:08d}-{last:08d}.npz"


def _write(path: Path, fill: Callable[[Any], Any]) -> None:
    """A file, filled whole or not there at all, without waiting for the disk.

    A kill loses nothing, and after a power failure an entry that cannot be read is counted again.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            fill(file)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # its room may be what the disk lacks
            temporary.unlink()
        raise FrspecError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Make room and run the same command again to resume.",
        ) from error


def _load(path: Path) -> ShardCounts:
    with np.load(path) as arrays:
        meta = json.loads(arrays["meta"].tobytes())
        documents = arrays.get("documents")
        examples = [tuple(example) for example in meta["examples"]]
        return ShardCounts(
            meta["sources"], arrays["key"], arrays["token"], arrays["count"], documents, meta["shards"], examples
        )


class _Shard(schema.Schema):
    """A shard's record. Names of files are not checked for being Unicode: they may not be."""

    path: Any
    format: str
    sha256: str
    start: schema.Count = 0
    size: schema.Count
    lines: schema.Count
    documents: schema.Count
    tokens: schema.Count
    bytes: schema.Count
    skipped: dict[str, schema.Count]


def _check_entry(part: ShardCounts, shards: int) -> None:
    """Raises an error unless an entry that could be read holds the counts of so many shards."""
    schema.check_type(list[_Shard], part.shards, "")
    schema.check_type(list[Annotated[tuple[Any, int, str, Any], Field(strict=False)]], part.examples, "")
    names = [*part.sources, *(shard["path"] for shard in part.shards), *(example[0] for example in part.examples)]
    if not isinstance(part.sources, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("names that are no text")
    arrays = [part.key, part.token, part.count, *([] if part.documents is None else [part.documents])]
    if len(part.shards) != shards or any(array.shape != part.key.shape or array.ndim != 1 for array in arrays):
        raise ValueError("counts of another form")
    if any(array.dtype.kind != "i" or array.min(initial=0) < 0 for array in arrays):
        raise ValueError("counts that are not whole numbers")
    if part.key.max(initial=0) >= FOLDS * max(1, len(part.sources)) or (np.diff(part.key) < 0).any():
        raise ValueError("counts of unknown sources")


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first difference between two plans in words; "" if there is none (stamps are compared elsewhere)."""
    for name in ("version", "tokenizer", "encoder"):
        if old.get(name) != new[name]:
            return f"the {name} was {shown(old.get(name))}, now it is {shown(new[name])}"
    if (file := first_difference(old["beside"], new["beside"])) is not None:
        return f"{file} beside the tokenizer ({_DECIDES[file]}) has changed"
    if (changed := first_difference(old["options"], new["options"])) is not None:
        was, now = (shown(plan["options"].get(changed)) for plan in (old, new))
        return f"{option(changed)} was {was}, now it is {now}"
    return _shard_difference(old["shards"], new["shards"])


def _shard_difference(old: list[list[Any]], new: list[list[Any]]) -> str:
    was = {(shard[0], shard[1]): shard for shard in old}
    now = {(shard[0], shard[1]): shard for shard in new}
    for label, start in was:
        if (label, start) not in now:
            return f"the stopped run also counted {label}"
        if was[label, start] != now[label, start]:
            size_was, size_now = was[label, start][4], now[label, start][4]
            if size_was == size_now:
                return f"{label} is cut or labelled differently"
            return f"{label} had {size_was:,} bytes, now {size_now:,}"
    return next((f"{label} is new" for label, start in now if (label, start) not in was), "")
