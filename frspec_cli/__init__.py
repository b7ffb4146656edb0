"""frspec: frequency-ranked speculative sampling, from raw text to measured tokens per second.

The public API in one screen; names are imported when first used (PEP 562), so that `frspec --help` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "FrspecError": "frspec_cli.errors",
    "FrequencyTable": "frspec_cli.frequency.table",
    "load_tokenizer": "frspec_cli.tokens.tokenizer",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
