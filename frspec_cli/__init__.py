"""frspec: frequency-ranked speculative sampling, from raw text to measured tokens per second.

The public API in one screen; names are imported when first used (PEP 562), so that `frspec --help` loads no torch.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing is not imported for this: Ctrl-C is a sentence only once this file is through
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"
INTERRUPTED = 130
"""The exit code after Ctrl-C."""

_PUBLIC = {
    "Builder": "frspec_cli.subsets.build",
    "EagleHead": "frspec_cli.heads.head",
    "Engine": "frspec_cli.decoding.engine",
    "FrequencyTable": "frspec_cli.counting.table",
    "FrspecError": "frspec_cli.errors",
    "GenerateOptions": "frspec_cli.decoding.options",
    "Generation": "frspec_cli.decoding.generation",
    "NamedTable": "frspec_cli.subsets.mix",
    "Pipeline": "frspec_cli.decoding.pipeline",
    "Recipe": "frspec_cli.subsets.recipe",
    "Sampling": "frspec_cli.decoding.sampling",
    "TreeConfig": "frspec_cli.decoding.options",
    "Target": "frspec_cli.models.target",
    "VocabularySubset": "frspec_cli.subsets.subset",
    "coverage": "frspec_cli.subsets.coverage",
    "generate": "frspec_cli.decoding.pipeline",
    "load_head": "frspec_cli.heads.checkpoint",
    "load_subset": "frspec_cli.subsets.load",
    "load_target": "frspec_cli.models.target",
    "load_tokenizer": "frspec_cli.tokens.tokenizer",
    "load_pipeline": "frspec_cli.decoding.pipeline",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
