"""What is counted already, kept beside the output so that a killed run goes on where it stopped.

A ledger is a folder: `plan.json` says what is being counted (a key over tokenizer, options, shards, version), every
`AAAAAAAA-BBBBBBBB.npz` holds the counts of the shards A to B, each appearing whole or not at all. Finished neighbours
are now and then joined, so that the folder does not grow with the corpus.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from frspec_cli import storage
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import content_digest
from frspec_cli.counting.accumulator import ShardCounts
from frspec_cli.counting.options import LEDGER_VERSION
from frspec_cli.errors import FrspecError

_PLAN = "plan.json"


def ledger_folder(out: Path | str) -> Path:
    """The ledger's folder of an output."""
    out = Path(out)
    return out.with_name(out.name + ".ledger")


def begun_with(folder: Path) -> str | None:
    """The encoder that an unfinished run chose; None where there is none."""
    plan = _plan(folder / _PLAN)
    return None if plan is None else plan.get("encoder")


def _plan(path: Path) -> dict[str, Any] | None:
    """The plan in a file; None where there is none, or none that can be read (the machine lost power)."""
    try:
        plan = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None


def make_plan(*, tokenizer: str, encoder: str, options: dict[str, Any], shards: list[Shard]) -> dict[str, Any]:
    """What decides the counts, as JSON: a ledger may be gone on with only under an equal plan. tokenizer: the path of the
    tokenizer.json (its bytes are the key: their hash is had before anything is loaded)."""
    listed = [[shard.label, shard.start, len(shard.paths), shard.format, shard.size, shard.source] for shard in shards]
    return {
        "version": LEDGER_VERSION,
        "tokenizer": storage.sha256_file(tokenizer),
        "encoder": encoder,
        "options": options,
        "shards": listed,
        "stamps": [shard.stamp for shard in shards],
    }


class Ledger:
    """The open ledger of one run; `opened` makes one."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.folder = folder
        self.plan = plan
        self._latest: tuple[int, int, ShardCounts] | None = None
        self._read: set[tuple[int, int]] = set()  # entries that are known to be readable

    @staticmethod
    @contextmanager
    def opened(folder: Path, plan: dict[str, Any], shards: list[Shard], *, restart: bool = False) -> Iterator[Ledger]:
        """The ledger at `folder`, new or gone on with; no second process may have it at the same time.

        Raises `FrspecError` where another run holds it, or where its plan differs, naming the difference.
        """
        out = folder.name.removesuffix(".ledger")
        with storage.claim_folder(folder, f"another run is counting into {out} at this moment."):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
            ledger = Ledger(folder, plan)
            if restart:
                ledger.forget()
            ledger._check(shards)
            try:
                yield ledger
            finally:
                ledger.remove_if_empty()

    def _check(self, shards: list[Shard]) -> None:
        path = self.folder / _PLAN
        if _plan(path) is None:
            self.forget()
            _write(path, lambda file: file.write(json.dumps(self.plan).encode()))
            return
        old = storage.read_json(path)
        if difference := _difference(old, self.plan):
            raise FrspecError(
                f"{self.folder} was begun with other inputs: {difference}.",
                hint="Give the old ones to go on, or --restart to count from the beginning.",
            )
        self._check_stamps(old, shards)

    def _check_stamps(self, old: dict[str, Any], shards: list[Shard]) -> None:
        """A file that was touched but is as it was may stay; one that was counted and has changed may not."""
        if old["stamps"] == self.plan["stamps"]:
            return
        pairs = zip(old["stamps"], self.plan["stamps"], strict=True)
        changed = {index for index, (was, now) in enumerate(pairs) if was != now}
        for first, last in self.entries():
            counted = dict(zip(range(first, last + 1), self.get(first, last).shards, strict=True))
            for index in sorted(changed & counted.keys()):
                if content_digest(shards[index]) == counted[index]["sha256"]:
                    continue
                raise FrspecError(
                    f"{counted[index]['path']} has changed since it was counted.",
                    hint="Give --restart to count from the beginning.",
                )
        _write(self.folder / _PLAN, lambda file: file.write(json.dumps(self.plan).encode()))

    def entries(self) -> list[tuple[int, int]]:
        """(first shard, last shard) of every entry, in order. What a joined entry covers again is dropped, and what
        cannot be read (the machine lost power) as if it had never been."""
        found = [tuple(map(int, path.stem.split("-"))) for path in self.folder.glob("*-*.npz")]
        kept: list[tuple[int, int]] = []
        for first, last in sorted(found, key=lambda entry: (entry[0], -entry[1])):
            if (kept and last <= kept[-1][1]) or not self._readable(first, last):
                self._path(first, last).unlink()
            else:
                kept.append((first, last))
        return kept

    def _readable(self, first: int, last: int) -> bool:
        if (first, last) not in self._read:
            try:
                _load(self._path(first, last))
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                return False
            self._read.add((first, last))
        return True

    def get(self, first: int, last: int) -> ShardCounts:
        """The counts of an entry."""
        if self._latest is not None and self._latest[:2] == (first, last):
            return self._latest[2]
        return _load(self._path(first, last))

    def put(self, first: int, last: int, part: ShardCounts) -> None:
        """Adds the counts of the shards `first` to `last`, whole or not at all."""
        meta = {"sources": part.sources, "shards": part.shards, "examples": part.examples}
        arrays: dict[str, Any] = {"key": part.key, "token": part.token, "count": part.count}
        if part.documents is not None:
            arrays["documents"] = part.documents
        packed = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        _write(self._path(first, last), lambda file: np.savez(file, meta=packed, **arrays))
        self._latest = (first, last, part)
        self._read.add((first, last))

    def join(self, last: int, part: ShardCounts) -> None:
        """Puts `part`, the counts of all shards up to `last`, in the place of their single entries."""
        self.put(0, last, part)
        self._latest = None  # it is in memory already, added up
        for path in self.folder.glob("*-*.npz"):
            if int(path.stem.split("-")[1]) <= last and path != self._path(0, last):
                path.unlink()

    def forget(self) -> None:
        """Drops all entries and the plan."""
        for path in [*self.folder.glob("*-*.npz"), self.folder / _PLAN]:
            path.unlink(missing_ok=True)

    def remove_if_empty(self) -> None:
        """Removes the folder of a run that ended before anything was counted: there is nothing to go on from."""
        if self.folder.is_dir() and not self.entries():
            self.remove()

    def remove(self) -> None:
        """Removes the folder: the output is there."""
        self.forget()
        shutil.rmtree(self.folder)

    def _path(self, first: int, last: int) -> Path:
        return self.folder / f"{first:08d}-{last:08d}.npz"


def _write(path: Path, fill: Callable[[Any], Any]) -> None:
    """A file, filled whole or not there at all, without waiting for the disk: a kill loses nothing, and after a power failure
    an entry that cannot be read is counted again."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            fill(file)
        os.replace(temporary, path)
    except OSError as error:
        raise FrspecError(
            f"{path} cannot be written: {error.strerror or error}.", hint="Make room and give the same command again."
        ) from error


def _load(path: Path) -> ShardCounts:
    with np.load(path) as arrays:
        meta = json.loads(arrays["meta"].tobytes())
        documents = arrays.get("documents")
        examples = [tuple(example) for example in meta["examples"]]
        return ShardCounts(
            meta["sources"], arrays["key"], arrays["token"], arrays["count"], documents, meta["shards"], examples
        )


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first difference between two plans in words; "" where there is none (stamps are looked at elsewhere)."""
    for name in ("version", "tokenizer", "encoder"):
        if old.get(name) != new[name]:
            return f"the {name} was {str(old.get(name))[:16]}, now it is {str(new[name])[:16]}"
    for name in sorted({*old["options"], *new["options"]}):
        was, now = old["options"].get(name), new["options"].get(name)
        if was != now:
            option = f"--{name.replace('_', '-')}"
            return f"{option} was {_shown(was)}, now it is {_shown(now)}"
    return _shard_difference(old["shards"], new["shards"])


def _shown(value: Any) -> str:
    return "not given" if value is None else str(value)


def _shard_difference(old: list[list[Any]], new: list[list[Any]]) -> str:
    was = {(shard[0], shard[1]): shard for shard in old}
    now = {(shard[0], shard[1]): shard for shard in new}
    for label, start in was:
        if (label, start) not in now:
            return f"{label} is not there any more"
        if was[label, start] != now[label, start]:
            sizes = was[label, start][4], now[label, start][4]
            same = sizes[0] == sizes[1]
            return (
                f"{label} is cut or labelled differently"
                if same
                else f"{label} had {sizes[0]:,} bytes, now {sizes[1]:,}"
            )
    for label, start in now:
        if (label, start) not in was:
            return f"{label} is new"
    return ""
