"""What frspec ships for its embedded models: counts, a subset and a draft head, made by this project (see data/)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_K = 8192
_K = {DEFAULT_MODEL: DEFAULT_K, "gemma3-270m": 16384}


@dataclass(frozen=True)
class Shipped:
    """The files that belong to one short name; a path is None if nothing is shipped.

    k: how much of the subset is used if the user gives no size.
    """

    counts: Path | None
    subset: Path | None
    head: Path | None
    k: int = DEFAULT_K


def data_folder() -> Path:
    """The folder of the shipped data: inside the package if installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "data"
    return installed if installed.is_dir() else package.parent / "data"


def shipped_for(model: str) -> Shipped:
    """What is shipped for the short name `model` (nothing for any other name)."""
    folder = data_folder() / model if "/" not in model else data_folder() / "none"
    files = (folder / "counts.parquet", folder / "subset.parquet", folder / "head")
    counts, subset, head = (path if path.exists() else None for path in files)
    return Shipped(counts=counts, subset=subset, head=head, k=_K.get(model, DEFAULT_K))
