"""A file in the wrong place: when a command fails, each input is looked at as `frspec inspect` would.

What it is and where it belongs is more use than what went wrong in reading it as something else. A command that succeeds
never comes here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from frspec_cli.errors import FrspecError, option

KINDS = {  # kind of `inspection.describe`: what it is called, and where it belongs
    "frequency-table": ("a frequency table", "frspec build-vocab cuts a subset from it; coverage takes it with --on."),
    "vocabulary-subset": ("a vocabulary subset", "Give it with --vocab, or to frspec coverage or export-vocab."),
    "draft-vocabulary": (
        "another project's draft vocabulary",
        "frspec import-vocab FILE --tokenizer MODEL --out subset.parquet makes it a subset.",
    ),
    "draft-head": ("a draft head", "Give it with --draft."),
    "model": ("a model", "Give it with --model."),
    "tokenizer": ("a tokenizer", "Give it with --tokenizer."),
    "answers": ("a file of recorded answers", "frspec count-freq, train-draft, replay and tune read it."),
    "records": ("a file of text or prompts", "Give it with --prompts, or to frspec count-freq."),
    "text": ("a file of plain text", "Give it to frspec count-freq, or to coverage with --on."),
    "parquet": ("a table of another program", "frspec count-freq reads its texts."),
    "bench-result": ("a result", "frspec report reads it."),
    "tune": ("a result of tune", "Give it with --config."),
    "costs": ("a file of step costs", "Give it to frspec tune with --costs."),
    "export-manifest": ("the manifest of an exported subset", "The subset lies beside it, without .manifest.json."),
    "tensors": ("a file of tensors", "frspec inspect shows them."),
}
_SUBSET = ("vocabulary-subset", "draft-vocabulary", "draft-head")
_TEXT = ("records", "answers", "parquet", "text")
_ANSWERS = ("answers", "records")
ACCEPTS = {  # parameter: what may be given there, first what it is for
    "vocab": _SUBSET,
    "subset": _SUBSET,
    "subsets": _SUBSET,
    "local": _SUBSET,
    "draft": ("draft-head",),
    "head": ("draft-head",),
    "init": ("draft-head",),
    "model": ("model",),
    "tokenizer": ("tokenizer", "model"),
    "prompts": _ANSWERS[::-1],
    "prompts_argument": _ANSWERS[::-1],
    "suite": _ANSWERS,
    "answers": _ANSWERS,
    "counts": ("frequency-table",),
    "tables": ("frequency-table",),
    "sources": _TEXT,
    "results": ("bench-result",),
    "costs": ("costs", "tune"),
    "config": ("tune",),
    "file": ("draft-vocabulary", "draft-head", "tensors", "model", "records", "answers"),
}
_OWN = {  # command and parameter, where the name alone does not say it
    ("train-draft", "answers"): ("answers",),
    ("bench", "suite"): _ANSWERS[::-1],
    ("profile", "suite"): _ANSWERS[::-1],
    ("build-vocab", "model"): ("model", "tokenizer"),
    ("import-answers", "file"): _TEXT,
    ("import-vocab", "counts"): ("frequency-table",),
}


def misplaced(command: str, parameters: dict[str, Any], error: FrspecError) -> FrspecError | None:
    """The sentence on an input of which the error speaks, if it is something else than belongs there.

    An error about an option, such as an output that may not be there, and one that names the file's kind are left as they are.
    """
    if error.message.startswith(option("")[0]) or "this is a" in error.message:
        return None
    for name, value in parameters.items():
        accepted = _OWN.get((command, name)) or ACCEPTS.get(name)
        for path in _paths(value) if accepted else ():
            kind = kind_of(path) if path.name in error.message else None
            if kind is not None and accepted is not None and kind not in accepted:
                what, where = KINDS[kind]
                if (command, kind) == ("import-vocab", "vocabulary-subset"):
                    return FrspecError(
                        f"{path} is a vocabulary subset already: there is nothing to import.", hint=where
                    )
                if command == "coverage" and kind in _TEXT:
                    where = "Put --on before each file that coverage is measured on."
                wanted = KINDS[accepted[0]][0]
                return FrspecError(f"{path} is {what}, not {wanted}.", hint=where.replace("FILE", str(path)))
    return None


def _paths(value: Any) -> Iterable[Path]:
    """The values of a parameter that are there on disk."""
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(each, (str, Path)) and str(each) and (path := Path(os.path.expanduser(each))).exists():
            yield path


def kind_of(path: Path) -> str | None:
    """The kind of a file or folder, as `frspec inspect` names it; None if it is none of those, or damaged."""
    from frspec_cli.corpus.jsonl import first_json
    from frspec_cli.inspection import describe

    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "tokenizer.json")):
        return None  # a folder of texts
    try:
        if path.is_file() and path.stat().st_size:
            record = first_json(path)
            if isinstance(record, dict) and "response_token_ids" in record:
                return "answers"  # without reading all of them
        kind = describe(path)["kind"]
    except (FrspecError, OSError):
        return None
    return kind if kind in KINDS else None
