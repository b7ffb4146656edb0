"""What a shell completes: models, subsets, formats and other names that frspec knows. Files it completes by itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path


def models(incomplete: str) -> list[str]:
    """Short names, and the folders and .gguf files in which a model may lie."""
    from frspec_cli.models.embedded import EMBEDDED

    marks = ("config.json", "tokenizer.json")
    return _starting(EMBEDDED, incomplete) + _beside(
        incomplete, lambda path: path.suffix == ".gguf" or any((path / mark).is_file() for mark in marks)
    )


def heads(incomplete: str) -> list[str]:
    """Folders with a config.json, and `mtp`."""
    return _starting(("mtp",), incomplete) + _beside(incomplete, lambda path: (path / "config.json").is_file())


def subsets(incomplete: str) -> list[str]:
    """Files that may hold a vocabulary subset."""
    return _beside(incomplete, lambda path: path.suffix in (".parquet", ".pt", ".npy", ".json", ".txt"))


def formats(incomplete: str) -> list[str]:
    """What a subset is exported to."""
    from frspec_cli.subsets.formats import WRITERS

    return _starting(WRITERS, incomplete)


def peers(incomplete: str) -> list[str]:
    """What a draft head is exported to."""
    from frspec_cli.heads.options import PEERS, ROWS

    return _starting((*PEERS, ROWS), incomplete)


def methods(incomplete: str) -> list[str]:
    """Methods, also after a comma."""
    from frspec_cli.decoding.options import METHODS

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in _starting(METHODS, last)]


def dtypes(incomplete: str) -> list[str]:
    """Dtypes, and `auto`."""
    return _starting(("auto", "bfloat16", "float16", "float32", "float64"), incomplete)


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _beside(incomplete: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Paths that begin with what was typed: the wanted ones, and folders to look into."""
    typed = os.path.expanduser(incomplete)
    folder = Path(os.path.dirname(typed) or ".")
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    prefix = incomplete[: len(incomplete) - len(os.path.basename(typed))]
    named = [each for each in found if each.name.startswith(os.path.basename(typed)) and not each.name.startswith(".")]
    return [
        prefix + each.name + ("/" if each.is_dir() and not wanted(each) else "")
        for each in named
        if each.is_dir() or wanted(each)
    ]
