"""frspec: frequency-ranked speculative sampling, from raw text to measured tokens per second.

The public API in one screen; names are imported when first used (PEP 562), so that `frspec --help` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Builder": "frspec_cli.vocabulary.build",
    "EagleHead": "frspec_cli.drafting.head",
    "Engine": "frspec_cli.decoding.engine",
    "FrequencyTable": "frspec_cli.frequency.table",
    "FrspecError": "frspec_cli.errors",
    "Generation": "frspec_cli.decoding.engine",
    "NamedTable": "frspec_cli.vocabulary.mix",
    "Parts": "frspec_cli.decoding.session",
    "Recipe": "frspec_cli.vocabulary.build",
    "Sampling": "frspec_cli.decoding.sampling",
    "Shape": "frspec_cli.decoding.tree",
    "Target": "frspec_cli.models.target",
    "VocabularySubset": "frspec_cli.vocabulary.subset",
    "coverage": "frspec_cli.vocabulary.cover",
    "load_head": "frspec_cli.drafting.checkpoint",
    "load_subset": "frspec_cli.vocabulary.load",
    "load_target": "frspec_cli.models.target",
    "load_tokenizer": "frspec_cli.tokens.tokenizer",
    "open_parts": "frspec_cli.decoding.session",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
