"""What a file or folder is: this project's artifacts and other projects', recognised by what they hold."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from frspec_cli import storage
from frspec_cli.corpus.conversations import read_answer_records
from frspec_cli.corpus.jsonl import count_lines, first_json
from frspec_cli.corpus.sources import find_shards
from frspec_cli.counting.parquet import open_parquet
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.errors import FrspecError
from frspec_cli.heads.config import detect_layout
from frspec_cli.heads.kinds import RUNS, other_kind
from frspec_cli.schema import Schema, check, read_object
from frspec_cli.subsets.formats import read_foreign
from frspec_cli.subsets.formats.content import container
from frspec_cli.subsets.formats.folder import maps_in
from frspec_cli.subsets.manifest import described_reading
from frspec_cli.subsets.shipped_tables import short_name, table_path
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.tuning.costs import read_costs
from frspec_cli.tuning.tune_file import MACHINE, read_tune


class _Result(Schema):
    """A result of bench, replay or verify, as far as `describe` reads it."""

    prompts: int | list[Any]
    summary: dict[str, Any] | list[Any] | None = None
    methods: dict[str, Any] | list[Any] | None = None


class _TokenizerModel(Schema):
    """The `model` of a tokenizer.json, as far as `describe` reads it."""

    type: str | None = None
    vocab: dict[str, Any] | list[Any] | None = None


def describe(path: Path | str) -> dict[str, Any]:
    """`{"kind": ..., ...}` of anything frspec reads or writes, or of the table that a short name means.

    Raises `FrspecError` for what it does not know.
    """
    short = short_name(str(path))
    path = Path(path) if short is None else table_path(short)
    if not path.exists():
        raise FrspecError(f"there is no file or folder {path}.")
    if path.is_dir():
        return _folder(path)
    if not path.stat().st_size:
        raise FrspecError(f"{path} is empty.")
    if container(path) == "parquet":
        return _parquet(path)
    record = first_json(path)
    if isinstance(record, dict):
        return _json_object(path, record)
    tensors = _tensors(path)
    if tensors and not _has_map(tensors):
        return {"kind": "tensors", "tensors": tensors}
    try:
        return _foreign(path)
    except FrspecError:
        if not _is_prose(path):
            raise
    return {"kind": "text", "lines": count_lines(path), "bytes": path.stat().st_size}


def _is_prose(path: Path) -> bool:
    """Whether a file is text whose name promises nothing else, and whose first line is neither ids nor names of columns."""
    if container(path) != "text" or path.suffix in (".json", ".jsonl", ".ndjson", ".csv", ".tsv"):
        return False
    with open(path, "rb") as file:
        first = next((line for line in file.read(65_536).splitlines() if line.strip()), b"")
    try:
        return any(character.isalpha() for character in first.decode()) and b" " in first
    except UnicodeDecodeError:
        return False


def _tensors(path: Path) -> dict[str, dict[str, Any]]:
    """name -> {"shape", "dtype"} of the tensors in a safetensors file or a .pt; empty if there are no named tensors."""
    from frspec_cli.tensor_files import load_torch, safetensors_shapes

    packing = container(path)
    if packing == "safetensors" or path.suffix == ".safetensors":
        return safetensors_shapes(path)
    value = load_torch(path) if packing == "torch" else None
    if not isinstance(value, dict) or not all(hasattr(each, "shape") for each in value.values()):
        return {}
    return {str(name): {"shape": list(each.shape), "dtype": str(each.dtype)} for name, each in value.items()}


def _parquet(path: Path) -> dict[str, Any]:
    with open_parquet(path) as file:
        names = file.schema_arrow.names
        if b"frspec" not in (file.schema_arrow.metadata or {}):
            return {"kind": "parquet", "rows": file.metadata.num_rows, "columns": names}
    return _subset(path) if "rank" in names else _table(path)


def _table(path: Path) -> dict[str, Any]:
    table = FrequencyTable.read(path)
    totals = table.totals()
    metadata = table.metadata
    kept = ("text", "documents", "tokens", "bytes", "skipped", "encoder", "options", "stability")
    return {
        "kind": "frequency-table",
        **({"file": str(path)} if table.tokens is not None else {}),
        "tokenizer": _without_spelling(metadata["tokenizer"]),
        **({"also_of": [record["reference"] for record in metadata["also"]]} if metadata.get("also") else {}),
        "spelled": table.tokens is not None,
        "distinct_tokens": int((totals > 0).sum()),
        "sources": {source: int(table.counts[source].sum()) for source in table.sources},
        "shards": len(metadata.get("shards", [])),
        **{name: metadata[name] for name in kept if name in metadata},
    }


def _without_spelling(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in ("tokens", "holes")}


def _subset(path: Path) -> dict[str, Any]:
    subset = VocabularySubset.read(path)
    tokens = [content.decode(errors="replace") for content in subset.tokens[:10]]
    first = [{"id": index, "token": token} for index, token in zip(subset.token_ids[:10].tolist(), tokens, strict=True)]
    kept = ("vocabulary_rows", "coverage", "held_out", "nested", "padded", "sha256", "tokenizer", "origin")
    known = {name: subset.metadata[name] for name in kept if name in subset.metadata}
    return {"kind": "vocabulary-subset", "k": subset.k, "forced": subset.forced, "first": first, **known}


def _json_object(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    if "response_token_ids" in record:
        return _answers(path)
    if record.get("kind") == "tune":
        return _tune(path)
    if record.get("kind") == "costs":
        return _costs(path)
    if {"summary", "prompts"} <= record.keys() or {"methods", "prompts"} <= record.keys():
        return _result(path, record)
    if {"format", "sha256", "tokens_sha256"} <= record.keys():
        return {"kind": "export-manifest", **record}
    if {"model", "added_tokens"} <= record.keys() and isinstance(record["model"], dict):
        return _tokenizer(path, record)
    if record.keys() & {"conversations", "messages", "prompt", "turns", "text"}:
        return {"kind": "records", "fields": sorted(record), "lines": count_lines(path)}
    return _foreign(path)


def _tokenizer(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    model = check(_TokenizerModel, record.get("model"), path)
    return {"kind": "tokenizer", "type": model.type, "tokens": len(model.vocab or ())}


def _tune(path: Path) -> dict[str, Any]:
    tune = read_tune(path)
    best = max((record.way for record in tune.ways), key=lambda way: way.rate)
    return {
        "kind": "tune",
        "model": tune.options.get("model"),
        "machine": {name: tune.environment.get(name) for name in MACHINE},
        "best": str(best),
        "tokens_per_second": best.rate,
        "measured": best.measured,
        "ways": len(tune.ways),
    }


def _costs(path: Path) -> dict[str, Any]:
    costs = read_costs(path)
    return {
        "kind": "costs",
        "model": costs.model,
        "machine": costs.machine,
        "source": costs.source,
        "dtypes": [each.dtype for each in costs.costs],
        "trees": len(costs.acceptance),
    }


def _answers(path: Path) -> dict[str, Any]:
    answers = [answer for _, answer in read_answer_records(path)]
    sources = Counter(answer.source for answer in answers)
    lengths = [len(answer.response_ids) for answer in answers]
    return {
        "kind": "answers",
        "answers": len(answers),
        "finished": sum(answer.finished for answer in answers),
        "response_tokens": sum(lengths),
        "prompt_tokens": sum(len(answer.prompt_ids) for answer in answers),
        "longest": max(lengths, default=0),
        "sources": dict(sorted(sources.items())),
    }


def _result(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    check(_Result, record, path)
    methods = record.get("summary") or record.get("methods")
    prompts = record["prompts"] if isinstance(record["prompts"], int) else len(record["prompts"])
    kept = ("schema", "options", "environment", "identical")
    known: dict[str, Any] = {name: record[name] for name in kept if name in record}
    return {"kind": "bench-result", "prompts": prompts, "methods": methods, **known}


def _folder(path: Path) -> dict[str, Any]:
    weights = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()]
    if (path / "config.json").is_file() and weights:
        return _model(path, read_object(path / "config.json"), _tensors(weights[0]))
    if maps_in(path):
        return _foreign(path)
    if (path / "config.json").is_file():
        config = read_object(path / "config.json")
        other = other_kind(config, ())
        drafter = {} if other is None else {"drafter": f"holds {other}"}
        return {"kind": "model", "architectures": config.get("architectures"), **drafter}
    if (path / "tokenizer.json").is_file():
        files = sorted(file.name for file in path.iterdir())
        return {**_tokenizer(path / "tokenizer.json", read_object(path / "tokenizer.json")), "files": files}
    try:
        shards = find_shards([str(path)])
    except FrspecError as error:
        raise FrspecError(f"the folder {path} holds nothing that frspec knows.") from error
    formats = Counter(shard.format for shard in shards)
    read = {each for shard in shards for each in shard.paths}
    return {
        "kind": "corpus",
        "files": len(read),
        "bytes": sum(os.path.getsize(each) for each in read),
        "formats": dict(formats),
    }


def _model(folder: Path, config: dict[str, Any], tensors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    kept = ("hidden_size", "vocab_size", "draft_vocab_size", "num_hidden_layers", "speculators_model_type", "frspec")
    known = {
        "architectures": config.get("architectures"),
        **{name: config[name] for name in kept if name in config},
        "parameters": sum(math.prod(each["shape"]) for each in tensors.values()),
    }
    layout = detect_layout(config, tensors)
    other = other_kind(config, tensors)
    if layout is None and other is not None:
        return {"kind": "model", **known, "tensors": len(tensors), "drafter": f"holds {other}"}
    if other is not None:
        return {
            "kind": "draft-head",
            "layout": None,
            "problem": f"this is {other}; {RUNS}.",
            **known,
            "tensors": tensors,
        }
    if layout is None:
        return {"kind": "model", **known, "tensors": len(tensors)}
    return {
        "kind": "draft-head",
        "layout": layout,
        "own_vocabulary": _has_map(tensors),
        **_reading(folder, config),
        **known,
        "tensors": tensors,
    }


def _reading(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """How the head is read, under `reading`; or under `problem` why it cannot be."""
    from frspec_cli.heads.files import read_outlines
    from frspec_cli.heads.layouts import parse_head

    try:
        head = parse_head(config, read_outlines(folder), layers=None, where=str(folder))
    except FrspecError as error:  # what it is can be shown all the same
        return {"problem": error.message}
    return {"reading": head.reading()}


def _foreign(path: Path) -> dict[str, Any]:
    entries = read_foreign(path)
    entries = described_reading(entries) or entries
    return {
        "kind": "draft-vocabulary",
        "format": entries.format,
        "reading": entries.reading,
        **({"fits_also": entries.otherwise.reading} if entries.otherwise is not None else {}),
        "entries": len(entries.ids),
        "repeated": len(entries.ids) - len(set(entries.ids.tolist())),
        "lowest_id": int(entries.ids.min()),
        "highest_id": int(entries.ids.max()),
        "vocabulary_rows": entries.vocabulary_rows,
        "ranked": entries.ranked,
        "counts": entries.counts is not None,
        "sha256": storage.sha256_ids(entries.ids),
        "first": entries.ids[:10].tolist(),
    }


def _has_map(tensors: dict[str, Any]) -> bool:
    return any(name.split(".")[-1] in ("d2t", "t2d", "vocab_map") for name in tensors)
