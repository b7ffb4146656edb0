"""Runs that resume: a folder beside the output keeps what is finished and what the run depends on.

One process at a time may have the folder. A killed run resumes only under equal inputs; otherwise the first difference is
named. Parts appear in it whole or not at all (`storage`), so whatever is there is finished.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frspec_cli import storage
from frspec_cli.errors import AlreadyThere, FrspecError, option

LEDGER, TRAINING = ".ledger", ".training"
"""Suffixes of the folder's name after the output's."""
_RECORDS = ("inputs.json", "plan.json", "run.json")
"""Files of a run's folder that say what the run depends on."""
INPUTS = "inputs"
"""The field in which a result keeps what it was made from."""


def run_folder(out: Path | str, suffix: str = LEDGER) -> Path:
    """The folder of the output `out`: beside it, or for a stream (see `storage.is_stream`) a temporary one of this process."""
    out = Path(out)
    if storage.is_stream(out):
        return Path(tempfile.gettempdir()) / f"frspec-{os.getpid()}-{out.name}{suffix}"
    return out.with_name(out.name + suffix)


def is_run_folder(folder: Path) -> bool:
    """Whether `folder` is what an unfinished run keeps beside its output."""
    return folder.name.endswith((LEDGER, TRAINING)) and (folder / storage.LOCK).is_file()


def holds_work(folder: Path) -> bool:
    """Whether a stopped run left anything in its folder that the next one resumes from."""
    named = (storage.LOCK, *_RECORDS)
    parts = [part for part in folder.iterdir() if part.name not in named] if folder.is_dir() else []
    return any(part.stat().st_size if part.is_file() else any(part.iterdir()) for part in parts)


class RunFolder:
    """The folder of one run, held by this process; `opened` makes one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    @contextmanager
    def opened(folder: Path) -> Iterator[RunFolder]:
        """Takes `folder` for this process, made if need be, and removes what a killed run left half-written.

        Raises `FrspecError` if another process holds it, if it cannot be written, or if it is not the folder of a run.
        """
        if folder.is_dir() and any(folder.iterdir()) and not (folder / storage.LOCK).is_file():
            raise FrspecError(
                f"{folder} exists and is not the folder of a run: what is in it would be removed.",
                hint=f"Move it away, or choose another {option('out')}.",
            )
        with storage.claim_folder(folder, f"another process is writing to {folder}."):
            for leftover in folder.rglob(".*.tmp"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
            yield RunFolder(folder)

    def resume(
        self,
        inputs: Mapping[str, Any],
        *,
        restart: bool = False,
        record: str = "inputs.json",
        keep: Sequence[str] = (),
    ) -> bool:
        """Whether an earlier run with equal inputs is resumed; otherwise the folder is emptied and the inputs recorded.

        inputs: everything that the result depends on, JSON values by the names that the user knows them by.
        record: the file that keeps them.
        keep: parts that stay when the folder is emptied, for their names say what they hold.
        Raises `FrspecError` if the inputs differ, naming the first difference.
        """
        path = self.path(record)
        if restart or not path.is_file():
            self.clear(keep)
            storage.write_json(path, dict(inputs))
            return False
        from frspec_cli import schema  # pydantic is not loaded for `frspec --help`

        before = schema.read_object(path, hint=f"{option('restart')} starts over.")
        if (name := first_difference(before, inputs)) is not None:
            if all(part.name in (storage.LOCK, record, *keep) for part in self.folder.iterdir()):
                return self.resume(inputs, restart=True, record=record, keep=keep)  # nothing was done
            was, now = shown_apart(before.get(name), inputs.get(name))
            raise FrspecError(
                f"{self.folder} belongs to a stopped run with other inputs: {_spelled(name)} was {was}, now it is {now}.",
                hint=f"Use the same inputs to resume, {option('restart')} to start over, or another {option('out')}.",
            )
        return True

    def path(self, name: str) -> Path:
        """Where the finished part `name` is, or will be."""
        return self.folder / name

    def clear(self, keep: Sequence[str] = ()) -> None:
        """Removes everything but the lock and the parts named in `keep`."""
        for part in self.folder.iterdir():
            if part.name != storage.LOCK and part.name not in keep:
                shutil.rmtree(part) if part.is_dir() else part.unlink()

    def remove(self) -> None:
        """Removes the folder: the output is complete."""
        shutil.rmtree(self.folder)


def check_finished(out: Path, inputs: Mapping[str, Any], *, restart: bool, force: bool) -> None:
    """Whether the result `out` of a run may be written: nothing is there, or what is there may be replaced.

    inputs: what the result depends on; finished results keep theirs under `INPUTS`.
    Raises `AlreadyThere` or `FrspecError` (see `refuse_finished`).
    """
    if not force and is_there(out):
        refuse_finished(out, _difference(out, inputs, lambda result: result.get(INPUTS)), restart=restart)


def refuse_foreign(out: Path, record: Path, inputs: Mapping[str, Any], *, restart: bool) -> None:
    """Raises `FrspecError` if `out` was made by another run than the one that `record` says was begun.

    A run that was begun with other inputs is refused only if it would start over: `RunFolder.resume` refuses to resume it.
    """
    difference = _difference(record, inputs, lambda recorded: recorded)
    if not record.is_file() or (restart and difference):
        refuse_finished(out, difference, restart=restart)


def _difference(file: Path, inputs: Mapping[str, Any], of: Callable[[dict[str, Any]], Any]) -> str:
    """The first difference between the inputs that a JSON file records and those of now, in words; "" if there is none.

    of: finds the recorded inputs in what the file holds.
    """
    from frspec_cli import schema  # pydantic is not loaded for `frspec --help`

    try:
        before = of(schema.read_object(file, hint=""))
    except FrspecError:
        before = None
    if not isinstance(before, dict):
        return "it does not say what it was made from"
    if (name := first_difference(before, inputs)) is None:
        return ""
    was, now = shown_apart(before.get(name), inputs.get(name))
    return f"{_spelled(name)} was {was}, now it is {now}"


def is_there(out: Path) -> bool:
    """Whether there is something at `out` that could be lost."""
    if storage.is_stream(out) or not out.exists():
        return False
    return any(out.iterdir()) if out.is_dir() else out.stat().st_size > 0


def refuse_finished(out: Path, difference: str, *, restart: bool) -> None:
    """Refuses to make again what is at `out`.

    difference: between what it was made from and what it would be made from now, in words; "" if there is none.
    restart: what equal inputs made may be made anew.
    Raises `FrspecError` if there is a difference, `AlreadyThere` if not.
    """
    if difference:
        raise FrspecError(
            f"{out} exists and was not made by this command: {difference}.",
            hint=f"{option('force')} replaces it; or choose another {option('out')}.",
        )
    if not restart:
        raise AlreadyThere(f"{out} is complete: the same inputs made it.", hint=f"{option('restart')} makes it anew.")


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first name whose values differ (missing is None), in the order of `now`; None if there is none."""
    names = [*now, *sorted(before.keys() - now.keys())]
    return next((name for name in names if before.get(name) != now.get(name)), None)


def _spelled(name: str) -> str:
    """A recorded input's name for a message: records keep options as the command line spells them."""
    return option(name.removeprefix("--").replace("-", "_")) if name.startswith("--") else name


def shown_apart(before: Any, now: Any) -> tuple[str, str]:
    """Two values that differ, each short enough for a sentence and from where they differ on."""
    if shown(before) != shown(now):
        return shown(before), shown(now)
    was, given = str(before), str(now)
    first = next((i for i, (one, other) in enumerate(zip(was, given, strict=False)) if one != other), 0)
    return f"...{was[first : first + 12]}", f"...{given[first : first + 12]}"


def shown(value: Any) -> str:
    """A value short enough for a sentence."""
    text = "not given" if value is None else str(value)
    return text if len(text) <= 40 else text[:12]
