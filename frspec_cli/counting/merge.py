"""Tables of one tokenizer added up: the parts of a `--shard I/N` run give the bytes that one run would have given."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from frspec_cli.counting.count import corpus_record, with_stability
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.errors import ArtifactError, FrspecError, UsageError, option
from frspec_cli.tokens.split_rules import differing_parts


def merge(tables: Sequence[FrequencyTable], names: Sequence[str]) -> FrequencyTable:
    """The sum of the tables. Options and encoders that differ are kept as lists.

    names: what messages call the tables.
    Raises `FrspecError` for tables of different tokenizers, and for one that does not say what it was counted from.
    """
    if len(tables) < 2:
        raise UsageError("merge needs at least two tables.")
    for name, table in zip(names, tables, strict=True):
        for field in ("shards", "encoder", "options"):
            if table.metadata.get(field) is None:
                raise ArtifactError(name, field, "a value", found="missing")
    _check_tokenizers(tables, names)
    shards = [shard for table in tables for shard in table.metadata["shards"]]
    shards.sort(key=lambda shard: (shard["path"], shard.get("start", 0)))
    metadata = {
        "tokenizer": _merged_tokenizer([table.metadata["tokenizer"] for table in tables]),
        **corpus_record(shards),
        "encoder": _merged_encoder([table.metadata["encoder"] for table in tables]),
        "options": _merged_options([table.metadata["options"] for table in tables]),
    }
    counts = _sum([table.counts for table in tables])
    documents = [table.documents for table in tables if table.documents is not None]
    if documents and len(documents) < len(tables):
        missing = next(name for name, table in zip(names, tables, strict=True) if table.documents is None)
        raise FrspecError(
            f"{missing} has no document frequencies, but others do.",
            hint=f"Count it with {option('document_frequency')}.",
        )
    return with_stability(FrequencyTable(counts, metadata, _sum(documents) if documents else None))


def _sum(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    total: dict[str, np.ndarray] = {}
    for counts in parts:
        for source, array in counts.items():
            total[source] = total[source] + array if source in total else array
    return total


def _check_tokenizers(tables: Sequence[FrequencyTable], names: Sequence[str]) -> None:
    first = tables[0]
    for name, table in zip(names, tables, strict=True):
        if table.fingerprint == first.fingerprint and table.rows != first.rows:
            highest = f"{first.rows - 1}, as in {names[0]}, whose tokenizer is the same"
            raise ArtifactError(name, "tokenizer.highest_id", highest, found=str(table.rows - 1))
        if table.fingerprint != first.fingerprint:
            ours, theirs = (t.metadata["tokenizer"]["reference"] for t in (first, table))
            raise FrspecError(
                f"{names[0]} and {name} were counted with different tokenizers: {ours} ({first.fingerprint[:12]}) and "
                f"{theirs} ({table.fingerprint[:12]})."
            )
        check_split_rules(first, table, names=(names[0], name))


def check_split_rules(first: FrequencyTable, second: FrequencyTable, *, names: tuple[str, str]) -> None:
    """Raises `FrspecError` if the tokenizers that counted have one vocabulary but split text differently."""
    records = [table.metadata["tokenizer"] for table in (first, second)]
    if parts := differing_parts(*records):
        raise FrspecError(
            f"{names[0]} and {names[1]} were counted with tokenizers of one vocabulary that split text differently: "
            f"{' and '.join(record['reference'] for record in records)} differ in {', '.join(parts)}.",
            hint="Count both with one tokenizer.",
        )


def counted_twice(tables: Sequence[FrequencyTable], names: Sequence[str]) -> list[str]:
    """A sentence for every shard (by its bytes) that is in more than one table: its text will be counted twice."""
    first_in: dict[tuple[str, int, int], str] = {}
    sentences = []
    for name, table in zip(names, tables, strict=True):
        for shard in table.metadata["shards"]:
            key = shard["sha256"], shard["size"], shard.get("start", 0)
            if shard["sha256"] and shard["size"] and first_in.setdefault(key, name) != name:
                sentences.append(f"{shard['path']} is in both {first_in[key]} and {name}: it counts twice.")
    return sentences


def _merged_tokenizer(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rows = {record["model_rows"] for record in records if record.get("model_rows") is not None}
    if len(rows) > 1:
        raise FrspecError(f"the tables were counted for models of different vocabulary rows: {sorted(rows)}.")
    forced: dict[str, str] = {}
    for record in records:
        forced |= record.get("forced") or {}
    reference = min(record["reference"] for record in records)
    ordered = {name: forced[name] for name in sorted(forced, key=int)}
    merged = {**records[0], "reference": reference, "model_rows": min(rows, default=None), "forced": ordered}
    if not all(record.get("split_rules") for record in records):
        merged.pop("split_rules", None)  # of an earlier version's table they are not known
    for name in ("tokens", "holes"):  # of a table that spells its tokens, which the sum does not
        merged.pop(name, None)
    return merged


def _merged_encoder(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One record of the encoders; the parts of one corpus were all probed on the same texts, other tables' probes add."""
    distinct = _distinct(records)
    if len(distinct) == 1:
        return distinct[0]
    first, probes = distinct[0], [record.get("probe") or {} for record in distinct]
    if any(
        "encoders" in record or record["name"] != first["name"] or record.get("version") != first.get("version")
        for record in distinct
    ):
        return {"name": "+".join(sorted({record["name"] for record in records})), "encoders": distinct}
    return {**first, "probe": {name: sum(probe.get(name, 0) for probe in probes) for name in probes[0]}}


def _merged_options(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = sorted({name for record in records for name in record})
    merged = {}
    for name in names:
        values = [record.get(name) for record in records]
        merged[name] = values[0] if all(value == values[0] for value in values) else _distinct(values)
    return merged


def _distinct(values: Sequence[Any]) -> list[Any]:
    return [json.loads(text) for text in sorted({json.dumps(value, sort_keys=True) for value in values})]
