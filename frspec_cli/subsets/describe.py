"""What a file or folder is: this project's artifacts and the peers', told by what they hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from frspec_cli import storage
from frspec_cli.corpus.conversations import read_answer_records
from frspec_cli.corpus.jsonl import count_lines, first_json
from frspec_cli.counting.parquet import open_parquet
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats import read_foreign
from frspec_cli.subsets.formats.content import container
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.tensor_files import load_torch


def describe(path: Path | str) -> dict[str, Any]:
    """`{"kind": ..., ...}` of anything frspec reads or writes. Raises `FrspecError` for what it does not know."""
    path = Path(path)
    if not path.exists():
        raise FrspecError(f"there is no file or folder {path}.")
    if path.is_dir():
        return _folder(path)
    if not path.stat().st_size:
        raise FrspecError(f"{path} is empty.")
    content = container(path)
    if content == "parquet":
        return _parquet(path)
    record = first_json(path)
    if isinstance(record, dict):
        return _json_object(path, record)
    tensors = tensor_shapes(path) if content in ("safetensors", "torch") else {}
    if tensors and not _has_map(tensors):
        return {"kind": "tensors", "tensors": tensors}
    return _foreign(path)


def tensor_shapes(path: Path | str) -> dict[str, dict[str, Any]]:
    """name -> {"shape", "dtype"} of a safetensors file (from its header alone) or of a .pt; {} where a .pt holds
    something else than named tensors. Raises `FrspecError` where the file is damaged or refused."""
    from safetensors import SafetensorError, safe_open

    if container(path) == "torch":
        value = load_torch(Path(path))
        named = value if isinstance(value, dict) and all(hasattr(each, "shape") for each in value.values()) else {}
        return {str(name): {"shape": list(each.shape), "dtype": str(each.dtype)} for name, each in named.items()}
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in sorted(file.keys())}
            return {name: {"shape": each.get_shape(), "dtype": str(each.get_dtype())} for name, each in slices.items()}
    except SafetensorError as error:
        raise FrspecError(f"{path} is not a safetensors file: {error}.") from None


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
    kind = "soft-frequency-table" if metadata.get("kind") == "soft" else "frequency-table"
    kept = ("tokenizer", "documents", "tokens", "bytes", "skipped", "encoder", "options", "stability")
    return {
        "kind": kind,
        "distinct_tokens": int((totals > 0).sum()),
        "sources": {source: int(table.counts[source].sum()) for source in table.sources},
        "shards": len(metadata.get("shards", [])),
        **{name: metadata[name] for name in kept if name in metadata},
    }


def _subset(path: Path) -> dict[str, Any]:
    subset = VocabularySubset.read(path)
    first = [{"id": int(i), "token": _text(c)} for i, c in zip(subset.token_ids[:10], subset.tokens[:10], strict=True)]
    kept = ("vocabulary_rows", "coverage", "held_out", "nested", "padded", "sha256", "tokenizer", "origin")
    known = {name: subset.metadata[name] for name in kept if name in subset.metadata}
    return {"kind": "vocabulary-subset", "k": subset.k, "forced": subset.forced, "first": first, **known}


def _json_object(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    if "response_token_ids" in record:
        return _answers(path)
    if {"summary", "prompts"} <= record.keys() or {"methods", "prompts"} <= record.keys():
        return _result(record)
    if {"format", "sha256", "tokens_sha256"} <= record.keys():
        return {"kind": "export-manifest", **record}
    if {"model", "added_tokens"} <= record.keys() and isinstance(record["model"], dict):
        return {
            "kind": "tokenizer",
            "type": record["model"].get("type"),
            "tokens": len(record["model"].get("vocab", [])),
        }
    if "conversations" in record or "messages" in record or "prompt" in record or "turns" in record or "text" in record:
        return {"kind": "records", "fields": sorted(record), "lines": count_lines(path)}
    return _foreign(path)


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


def _result(record: dict[str, Any]) -> dict[str, Any]:
    methods = record.get("summary") or record.get("methods")
    prompts = record["prompts"] if isinstance(record["prompts"], int) else len(record["prompts"])
    kept = ("schema", "options", "environment", "identical")
    known: dict[str, Any] = {name: record[name] for name in kept if name in record}
    return {"kind": "bench-result", "prompts": prompts, "methods": methods, **known}


def _folder(path: Path) -> dict[str, Any]:
    weights = next(
        (path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()), None
    )
    if (path / "config.json").is_file() and weights is not None:
        return _model(storage.read_json(path / "config.json"), tensor_shapes(weights))
    if any(path.glob("*d2t*.npy")):
        return _foreign(path)
    if (path / "config.json").is_file():
        return {"kind": "model", "architectures": storage.read_json(path / "config.json").get("architectures")}
    if (path / "tokenizer.json").is_file():
        return {"kind": "tokenizer", "files": sorted(file.name for file in path.iterdir())}
    raise FrspecError(f"the folder {path} holds nothing that frspec knows.")


def _model(config: dict[str, Any], tensors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    layout = head_layout(config, tensors)
    kept = ("hidden_size", "vocab_size", "draft_vocab_size", "num_hidden_layers", "frspec")
    described = {name: config[name] for name in kept if name in config}
    parameters = sum(_product(each["shape"]) for each in tensors.values())
    known = {"architectures": config.get("architectures"), **described, "parameters": parameters}
    if layout is None:
        return {"kind": "model", **known, "tensors": len(tensors)}
    return {"kind": "draft-head", "layout": layout, "own_vocabulary": _has_map(tensors), **known, "tensors": tensors}


def head_layout(config: dict[str, Any], tensors: dict[str, Any]) -> str | None:
    """`frspec`, `eagle3`, `speculators` or `eagle` by config and tensor names; None for what is no draft head."""
    names = [name.removeprefix("model.") for name in tensors]
    if "FrspecEagle" in (config.get("architectures") or []):
        return "frspec"
    if "speculators_model_type" in config:
        return "speculators"
    if any(name.startswith("midlayer.") for name in names) or any(
        name.endswith("hidden_norm.weight") for name in names
    ):
        return "eagle3"
    return "eagle" if "fc.weight" in names else None


def _foreign(path: Path) -> dict[str, Any]:
    found = read_foreign(path)
    repeated = len(found.ids) - len(set(found.ids.tolist()))
    return {
        "kind": "draft-vocabulary",
        "format": found.format,
        "entries": len(found.ids),
        "repeated": repeated,
        "lowest_id": int(found.ids.min()),
        "highest_id": int(found.ids.max()),
        "vocabulary_rows": found.vocabulary_rows,
        "ranked": found.ranked,
        "counts": found.counts is not None,
        "sha256": storage.sha256_ids(found.ids),
        "first": found.ids[:10].tolist(),
    }


def _has_map(tensors: dict[str, Any]) -> bool:
    return any(name.split(".")[-1] in ("d2t", "t2d") for name in tensors)


def _text(content: bytes) -> str:
    return content.decode(errors="replace")


def _product(shape: list[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
