"""frspec: frequency-ranked speculative sampling, from raw text to measured tokens per second.

The public API in one screen. A function for each command, named as it is (`replay_answers` for `replay`, `diagnose_head`
for `doctor`):

    import frspec_cli

    print(frspec_cli.generate("Why is the sky blue?").text)
    frspec_cli.build_vocab(model="qwen3", k=32768, out="subset.parquet")

Their options are frozen dataclasses with the command line's defaults. Names are imported when first used (PEP 562), so that
`frspec --help` loads no torch; type checkers read `__init__.pyi`.
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
    "Callbacks": "frspec_cli.progress",
    "CollectOptions": "frspec_cli.answers.options",
    "CountOptions": "frspec_cli.counting.options",
    "DoctorOptions": "frspec_cli.doctor.options",
    "EagleHead": "frspec_cli.heads.head",
    "Engine": "frspec_cli.decoding.engine",
    "FrequencyTable": "frspec_cli.counting.table",
    "FrspecError": "frspec_cli.errors",
    "GenerateOptions": "frspec_cli.decoding.options",
    "Generation": "frspec_cli.decoding.generation",
    "NamedTable": "frspec_cli.subsets.mix",
    "Pipeline": "frspec_cli.decoding.pipeline",
    "Recipe": "frspec_cli.subsets.recipe",
    "ReplayOptions": "frspec_cli.replay.options",
    "RunOptions": "frspec_cli.counting.options",
    "RunSettings": "frspec_cli.training.options",
    "Sampling": "frspec_cli.decoding.sampling",
    "Selection": "frspec_cli.corpus.options",
    "Target": "frspec_cli.models.target",
    "TrainOptions": "frspec_cli.training.options",
    "TrainedHead": "frspec_cli.api.drafts",
    "TreeConfig": "frspec_cli.decoding.options",
    "TuneOptions": "frspec_cli.tuning.options",
    "VerifyOptions": "frspec_cli.verification.options",
    "VocabularySubset": "frspec_cli.subsets.subset",
    "build_vocab": "frspec_cli.api.vocabularies",
    "collect": "frspec_cli.api.drafts",
    "count_freq": "frspec_cli.api.vocabularies",
    "coverage": "frspec_cli.api.vocabularies",
    "diagnose_head": "frspec_cli.api.drafts",
    "export_vocab": "frspec_cli.api.vocabularies",
    "generate": "frspec_cli.decoding.pipeline",
    "import_vocab": "frspec_cli.api.vocabularies",
    "load_head": "frspec_cli.heads.checkpoint",
    "load_pipeline": "frspec_cli.decoding.pipeline",
    "load_subset": "frspec_cli.subsets.load",
    "load_target": "frspec_cli.models.target",
    "load_tokenizer": "frspec_cli.tokens.tokenizer",
    "replay_answers": "frspec_cli.api.drafts",
    "train_draft": "frspec_cli.api.drafts",
    "tune": "frspec_cli.api.drafts",
    "verify": "frspec_cli.api.drafts",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
