"""The folder in which a run keeps what is finished, so that a killed one can go on: `OUT.ledger/` beside the output.

`inputs.json` says what the run depends on; it may be gone on with under equal inputs only, and by one process at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frspec_cli import storage
from frspec_cli.errors import FrspecError

_INPUTS = "inputs.json"


class RunFolder:
    """The open folder of one run; `opened` makes one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    @contextmanager
    def opened(out: Path, inputs: dict[str, Any], *, restart: bool, verb: str) -> Iterator[RunFolder]:
        """The folder of the output `out`, new or gone on with. inputs: what the run depends on, by the user's names.

        Raises `FrspecError` where another process holds it, or where the inputs differ, naming the first difference.
        """
        folder = out.with_name(out.name + ".ledger")
        with storage.claim_folder(folder, f"another run is {verb} into {out} at this moment."):
            made = RunFolder(folder)
            made._begin(inputs, restart=restart)
            yield made

    def path(self, name: str) -> Path:
        """Where the finished part `name` lies, or will."""
        return self.folder / name

    def remove(self) -> None:
        """Removes the folder: the output is there."""
        shutil.rmtree(self.folder)

    def _begin(self, inputs: dict[str, Any], *, restart: bool) -> None:
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        path = self.folder / _INPUTS
        if restart or not path.is_file():
            for part in self.folder.iterdir():
                if part.name != storage.LOCK:
                    part.unlink()
            storage.write_json(path, inputs)
            return
        before = storage.read_json(path)
        for name in [*inputs, *sorted(before.keys() - inputs.keys())]:
            if inputs.get(name) != before.get(name):
                was, now = (_shown(values.get(name)) for values in (before, inputs))
                raise FrspecError(
                    f"{self.folder} was begun with other inputs: {name} was {was}, now it is {now}.",
                    hint="Give the old ones to go on, or --restart to begin anew.",
                )


def _shown(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 40 else text[:12]
