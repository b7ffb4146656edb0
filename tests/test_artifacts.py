"""Damaged and hostile artifacts: every one is read, or refused in a sentence; none ends in a traceback or asks for memory.

Each kind has a valid artifact, ways to mutate it, and a use that reads it as commands do. `FUZZED` says how often the quick
and the slow suite try each; the explicit cases below name the sentence.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from frspec_cli import storage
from frspec_cli.counting.merge import merge
from frspec_cli.counting.stability import stability
from frspec_cli.counting.table import FOLDS, FrequencyTable
from frspec_cli.errors import ArtifactError, FrspecError
from frspec_cli.heads.checkpoint import load_head, save_head
from frspec_cli.heads.config import HeadConfig
from frspec_cli.heads.head import EagleHead
from frspec_cli.inspection import describe
from frspec_cli.models.target import load_target
from frspec_cli.resume import RunFolder
from frspec_cli.subsets.build import Builder
from frspec_cli.subsets.exporting import export_subset
from frspec_cli.subsets.formats import read_foreign
from frspec_cli.subsets.importing import import_list
from frspec_cli.subsets.load import load_subset
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.recipe import Recipe
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer
from frspec_cli.training.checkpoint import SavedRun
from frspec_cli.training.optimizer import HeadOptimizer
from tests.conftest import ROOT
from tests.heads import heads

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
TARGET = SimpleNamespace(hidden_size=16, vocab_size=50, num_hidden_layers=8)
EMBEDDING = torch.zeros(50, 16)

HOSTILE = st.sampled_from([
    None, True, False, -1, 0, 1, 2, 7, 10**4, 10**9, 10**12, 2**31, 2**63, -(2**63), 10**40, 1.5, -0.5, 1e308, 1e-320,
    math.nan, math.inf, "", "x", "1", "evil", "\ud800", "../x", "default", "yarn", "llama3", "longrope", "dynamic",
    [], {}, [[]], ["x"], [1, "x"], [-1], [10**9], [0.5], {"x": 1}, {"1": 1}, {"1": {}}, [{}], [{"sha256": "x"}],
])  # fmt: skip


# --- mutations


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a JSON value, its own (()) first."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in below for place in places(each, (*path, key)))]


def mutated(value: Any, data: st.DataObject) -> Any:
    """A JSON value with one to three of its parts replaced or removed."""
    value = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(value)))
        if not path:
            if data.draw(st.integers(0, 9)) == 0:
                return copy.deepcopy(data.draw(HOSTILE))
            continue
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[path[-1]] = copy.deepcopy(data.draw(HOSTILE))  # the next mutation may change it
        else:
            del parent[path[-1]]
    return value


def mutated_text(value: Any, data: st.DataObject) -> bytes:
    """The bytes of a mutated JSON value, which sometimes are not JSON at all."""
    text = json.dumps(mutated(value, data)).encode()
    match data.draw(st.integers(0, 11)):
        case 0:
            return text[: data.draw(st.integers(0, len(text)))]
        case 1:
            return data.draw(
                st.sampled_from([b"", b"not json", b"\xff\xfe", b"[" * 100_000, b"\x80\x04K\x01.", b"NaN"])
            )
    return text


def mutated_safetensors(path: Path, data: st.DataObject) -> None:
    """Damages a .safetensors file: its header's values, its header's length, its end, or one bit."""
    raw = bytearray(path.read_bytes())
    length = int.from_bytes(raw[:8], "little")
    match data.draw(st.integers(0, 4)):
        case 0:
            raw = raw[: data.draw(st.integers(0, len(raw)))]
        case 1:
            place = data.draw(st.integers(0, (8 + length) * 8 - 1))
            raw[place // 8] ^= 1 << place % 8
        case 2:
            raw[:8] = data.draw(st.sampled_from([0, 1, length - 1, length + 1, 2**31, 2**63])).to_bytes(8, "little")
        case 3:
            raw = bytearray(data.draw(st.sampled_from([b"", b"\x80\x04K\x01.", b"PK\x03\x04", b"x" * 100])))
        case 4:
            header = json.dumps(mutated(json.loads(raw[8 : 8 + length]), data)).encode()
            raw = bytearray(len(header).to_bytes(8, "little")) + header + raw[8 + length :]
    path.write_bytes(bytes(raw))


_TENSORS = [
    torch.zeros(()),
    torch.zeros(0),
    torch.zeros(0, 16),
    torch.zeros(12),
    torch.zeros(12, 16),
    torch.zeros(12, 1, dtype=torch.int64),
    torch.zeros(12, dtype=torch.bfloat16),
    torch.zeros(12, dtype=torch.float8_e4m3fn),
    torch.zeros(12, dtype=torch.bool),
    torch.full((12,), 2**62),
    torch.full((12,), -1),
    torch.full((50,), math.nan),
    torch.zeros(2, 2, 2),
]


def mutated_tensors(path: Path, data: st.DataObject) -> None:
    """Replaces or removes one or two tensors of a .safetensors file by others of odd shapes and dtypes."""
    tensors = load_file(path)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        tensors.pop(name)
        if data.draw(st.integers(0, 3)):
            tensors[name] = data.draw(st.sampled_from(_TENSORS)).clone()
        if not tensors:
            break
    save_file(tensors, path)


def mutated_columns(table: pa.Table, data: st.DataObject) -> pa.Table:
    """A table with one column of other values or another type, or with fewer rows."""
    match data.draw(st.integers(0, 9)):
        case 0:
            return table.slice(0, data.draw(st.integers(0, 3)))
        case 1:
            return pa.concat_tables([table, table])
        case 2 | 3 | 4:
            return table
    index = data.draw(st.integers(0, table.num_columns - 1))
    name, rows = table.column_names[index], len(table)
    kind = table.schema.field(index).type
    value = data.draw(st.sampled_from([-1, 0, 1, 11, 126, 2**31 - 1, 2**62, None, "x", b"\xff", 0.5, math.nan]))
    wanted = data.draw(st.sampled_from([kind, pa.string(), pa.int64(), pa.float64(), pa.binary(), pa.uint8()]))
    values = table[name].to_pylist()
    if data.draw(st.booleans()):
        values = [value] * rows
    elif rows:
        values[data.draw(st.integers(0, rows - 1))] = value
    try:
        if pa.types.is_dictionary(wanted):
            column = pa.array(values, wanted.value_type).dictionary_encode().cast(wanted)
        else:
            column = pa.array(values, wanted)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return table.drop_columns([name])
    return table.set_column(index, name, column)


def mutated_parquet(path: Path, data: st.DataObject) -> None:
    """Damages one of our parquet files: columns, metadata, or both; hashes are made to fit, so that they hide nothing."""
    table = pq.read_table(path)
    described = json.loads(table.schema.metadata[b"frspec"])
    table = mutated_columns(table, data)
    text = mutated_text(described, data) if data.draw(st.booleans()) else json.dumps(described).encode()
    if "token_id" in table.column_names and "sha256" in described and data.draw(st.booleans()):
        ids = table["token_id"].to_pylist()
        if all(isinstance(each, int) for each in ids):
            text = text.replace(described["sha256"].encode(), storage.sha256_ids(ids).encode())
    pq.write_table(table.replace_schema_metadata({b"frspec": text}), path)


# --- artifacts and their uses


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> LoadedTokenizer:
    return load_tokenizer(str(tiny_folder))


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, tokenizer: LoadedTokenizer) -> Path:
    """One valid artifact of each kind."""
    folder = tmp_path_factory.mktemp("valid")
    rows = tokenizer.highest_id + 1
    counts = {name: np.random.default_rng(1).integers(0, 4, size=(FOLDS, rows)) for name in ("web", "code")}
    shard = {"path": "a.jsonl", "format": "jsonl", "size": 5, "sha256": "ab", "lines": 2, "documents": 2, "tokens": 3}
    metadata = {
        "tokenizer": tokenizer.record(),
        "lines": 2,
        "documents": 2,
        "tokens": 3,
        "bytes": 5,
        "skipped": {"empty": 1},
        "shards": [shard | {"bytes": 5, "skipped": {"empty": 1}}],
        "encoder": {"name": "fast", "version": "x 1", "probe": {"documents": 3, "bytes": 9}},
        "options": {"fields": None},
        "stability": stability(sum(counts.values()), (64,)),
    }
    table = FrequencyTable(counts, metadata)
    table.write(folder / "counts.parquet")
    named = NamedTable.read(folder / "counts.parquet")
    Builder([named], tokenizer, Recipe()).subset(40).write(folder / "subset.parquet")
    config = HeadConfig(layout="fused", **SIZES, vocab_size=50, taps=(1, 3))
    save_head(EagleHead(config, embedding_weight=EMBEDDING), folder / "own", card="", dtype=torch.float32)
    heads.write(folder / "eagle2", heads.eagle2())
    heads.write(folder / "eagle3", heads.eagle3(), {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}})
    shutil.copytree(tiny_folder, folder / "model")
    trainer = make_trainer()
    trainer.weights["a"].grad = torch.ones(3, 4)
    trainer.weights["b"].grad = torch.ones(3)
    trainer.optimizer.step(0.1, 0.1)
    trainer.step = 2
    saved = SavedRun(folder / "head")
    saved.folder.mkdir()
    saved.save(trainer, 1.5)
    saved.log({"step": 1, "loss": [1.0]})
    saved.log({"step": 3, "loss": [1.0]})
    return folder


def make_trainer() -> Any:
    weights = {"a": torch.nn.Parameter(torch.ones(3, 4)), "b": torch.nn.Parameter(torch.ones(3))}
    return SimpleNamespace(
        weights=weights, optimizer=HeadOptimizer(weights, "muon", weight_decay=0.0), average=None, step=0
    )


def use_table(path: Path, tokenizer: LoadedTokenizer) -> None:
    describe(path)
    named = NamedTable.read(path)
    merge([named.table, named.table], ["one", "two"])
    Builder([named], tokenizer, Recipe()).subset(30)


def use_subset(path: Path, tokenizer: LoadedTokenizer) -> None:
    describe(path)
    subset = load_subset(path, tokenizer=tokenizer, model_rows=320)
    assert len(set(subset.token_ids.tolist())) == subset.k
    assert subset.token_ids.min() >= 0
    export_subset(subset, "sglang", path.with_name("list.pt"))


def use_head(folder: Path) -> None:
    load_head(folder, target_config=TARGET, embedding_weight=EMBEDDING, dtype=torch.float32)


def attack_table(folder: Path, data: st.DataObject, tokenizer: LoadedTokenizer) -> None:
    path = folder / "counts.parquet"
    mutated_parquet(path, data)
    match data.draw(st.integers(0, 2)):
        case 0:
            describe(path)
        case 1:
            named = NamedTable.read(path)
            merge([named.table, named.table], ["one", "two"])
        case 2:
            Builder([NamedTable.read(path)], tokenizer, Recipe()).subset(30)


def attack_subset(folder: Path, data: st.DataObject, tokenizer: LoadedTokenizer) -> None:
    mutated_parquet(folder / "subset.parquet", data)
    use_subset(folder / "subset.parquet", tokenizer)


def attack_head_config(folder: Path, data: st.DataObject, tokenizer: LoadedTokenizer) -> None:
    head = folder / data.draw(st.sampled_from(["own", "eagle2", "eagle3"]))
    config = json.loads((head / "config.json").read_bytes())
    if data.draw(st.integers(0, 3)) == 0:
        config |= {
            data.draw(st.sampled_from(["rope_scaling", "rope_parameters", "head_dim"])): copy.deepcopy(
                data.draw(HOSTILE)
            )
        }
    (head / "config.json").write_bytes(mutated_text(config, data))
    describe(head)
    use_head(head)


def attack_head_tensors(folder: Path, data: st.DataObject, tokenizer: LoadedTokenizer) -> None:
    head = folder / data.draw(st.sampled_from(["own", "eagle2", "eagle3"]))
    change = mutated_safetensors if data.draw(st.booleans()) else mutated_tensors
    change(head / "model.safetensors", data)
    if data.draw(st.booleans()):
        read_foreign(head / "model.safetensors")
    describe(head)
    use_head(head)


def attack_model(folder: Path, data: st.DataObject, tokenizer: LoadedTokenizer) -> None:
    model = folder / "model"
    if data.draw(st.integers(0, 3)):
        config = json.loads((model / "config.json").read_bytes())
        (model / "config.json").write_bytes(mutated_text(config, data))
    elif data.draw(st.booleans()):
        mutated_safetensors(model / "model.safetensors", data)
    else:
        (model / "generation_config.json").write_bytes(mutated_text({"eos_token_id": 0, "do_sample": False}, data))
    target = load_target(str(model), device="cpu", dtype="float32")
    assert target.eos_ids is not None


def attack_run_folder(folder: Path, data: st.DataObject, tokenizer: LoadedTokenizer) -> None:
    saved = SavedRun(folder / "head")
    match data.draw(st.integers(0, 2)):
        case 0:
            change = mutated_safetensors if data.draw(st.booleans()) else mutated_tensors
            change(saved.checkpoint, data)
            saved.load(make_trainer())
        case 1:
            saved.metrics.write_bytes(mutated_text({"step": 1, "loss": [1.0]}, data) + b"\n")
            saved.cut_metrics(2)
        case 2:
            run = RunFolder(saved.folder)
            inputs = {"target": "x", "dtype": "float32", "steps": 3}
            run.path("run.json").write_bytes(mutated_text(inputs, data))
            run.resume(inputs, record="run.json")


ATTACKS: dict[str, Callable[[Path, st.DataObject, LoadedTokenizer], None]] = {
    "table": attack_table,
    "subset": attack_subset,
    "head_config": attack_head_config,
    "head_tensors": attack_head_tensors,
    "model": attack_model,
    "run_folder": attack_run_folder,
}
FUZZED = [("table", 50, 1250), ("subset", 50, 1250), ("head_config", 40, 1000), ("head_tensors", 30, 700)]
FUZZED += [("model", 10, 300), ("run_folder", 20, 500)]
PARTS = {
    "table": ["counts.parquet"],
    "subset": ["subset.parquet"],
    "head_config": ["own", "eagle2", "eagle3"],
    "head_tensors": ["own", "eagle2", "eagle3"],
    "model": ["model"],
    "run_folder": ["head.training"],
}


def fuzz(kind: str, trials: int, valid: Path, work: Path, tokenizer: LoadedTokenizer, *, fixed: bool) -> None:
    """Mutates the artifacts of a kind `trials` times; anything but success and `FrspecError` fails, with its example."""

    @settings(
        max_examples=trials, deadline=None, database=None, derandomize=fixed, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        for part in PARTS[kind]:
            target = work / part
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(valid / part, target) if (valid / part).is_dir() else shutil.copy(valid / part, target)
        with contextlib.suppress(FrspecError):
            ATTACKS[kind](work, data, tokenizer)

    attack()


@pytest.mark.parametrize(("kind", "trials"), [(kind, quick) for kind, quick, _ in FUZZED])
def test_a_mutated_artifact_is_read_or_refused_in_a_sentence(kind, trials, valid, tmp_path, tokenizer) -> None:
    fuzz(kind, trials, valid, tmp_path, tokenizer, fixed=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "trials"), [(kind, slow) for kind, _, slow in FUZZED])
def test_thousands_of_mutated_artifacts(kind, trials, valid, tmp_path, tokenizer) -> None:
    fuzz(kind, trials, valid, tmp_path, tokenizer, fixed=False)


# --- what is valid is read


def test_the_uses_work_on_what_is_valid(valid: Path, tmp_path: Path, tokenizer: LoadedTokenizer) -> None:
    """Otherwise the fuzzing would refuse everything for one and the same reason."""
    shutil.copytree(valid, tmp_path / "copy")
    folder = tmp_path / "copy"
    use_table(folder / "counts.parquet", tokenizer)
    use_subset(folder / "subset.parquet", tokenizer)
    for name in ("own", "eagle2", "eagle3"):
        use_head(folder / name)
    assert load_target(str(folder / "model"), device="cpu", dtype="float32").eos_ids == (0,)
    saved, trainer = SavedRun(folder / "head"), make_trainer()
    assert (saved.load(trainer), trainer.step) == (1.5, 2)
    saved.cut_metrics(2)
    assert saved.metrics.read_text() == '{"step": 1, "loss": [1.0]}\n'


def test_the_shipped_artifacts_fit_their_schemas() -> None:
    from frspec_cli.heads.config import own_config
    from frspec_cli.heads.files import read_config

    assert FrequencyTable.read(ROOT / "data" / "smollm2-135m" / "counts.parquet").rows == 49152
    for name in ("smollm2-135m", "gemma3-270m"):
        assert VocabularySubset.read(ROOT / "data" / name / "subset.parquet").k > 0
        assert own_config(read_config(ROOT / "data" / name / "head"), where=name).taps


# --- what is refused, and how


def rewritten(source: Path, path: Path, change: Callable[[dict[str, Any]], Any], **columns: Any) -> Path:
    """A copy of one of our parquet files with other metadata (or text in its place) and other columns."""
    table = pq.read_table(source)
    described = json.loads(table.schema.metadata[b"frspec"])
    for name, values in columns.items():
        index = table.column_names.index(name)
        table = table.set_column(
            index, name, values if isinstance(values, pa.Array) else pa.array(values, table[name].type)
        )
    if "sha256" in described and "token_id" in columns:
        described["sha256"] = storage.sha256_ids(table["token_id"].to_pylist())
    value = change(described)
    value = described if value is None else value
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    pq.write_table(table.replace_schema_metadata({b"frspec": text}), path)
    return path


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(described: dict[str, Any]) -> None:
        for key in path[:-1]:
            described = described[key]
        described[path[-1]] = value

    return change


def _drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(described: dict[str, Any]) -> None:
        for key in path[:-1]:
            described = described[key]
        del described[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda _: b"not json",
            ": its content is not valid JSON (Expecting value: line 1 column 1 (char 0)); expected JSON.",
        ),
        (lambda _: b"null", ": its metadata is null; expected a JSON object."),
        (lambda _: b"[]", ": its metadata is a list of 0; expected a JSON object."),
        (lambda _: b"{}", ": schema is null; expected a version, now 1."),
        (lambda _: b'{"schema": 1}', ": tokenizer is missing; expected a value."),
        (lambda _: b"[" * 100_000, ": its content is nested too deeply; expected JSON."),
        (
            lambda _: b'{"schema": 1, "x": "\\ud800"}',
            ": its metadata is text with half a character; expected text in Unicode.",
        ),
        (_set("schema", value=2), " has schema 2, newer than this version of frspec reads (1)."),
        (
            _set("tokenizer", "highest_id", value=10**12),
            ": tokenizer.highest_id is 1000000000000; expected below 16777216.",
        ),
        (_set("tokenizer", "highest_id", value=-5), ": tokenizer.highest_id is -5; expected at least 0."),
        (_set("tokenizer", "fingerprint", value=None), ": tokenizer.fingerprint is null; expected a string."),
        (_drop("tokenizer", "highest_id"), ": tokenizer.highest_id is missing; expected a value."),
        (_set("tokenizer", "model_rows", value="x"), ": tokenizer.model_rows is 'x'; expected a whole number."),
        (_set("shards", value=[{"path": "a"}]), ": shards.0.size is missing; expected a value."),
    ],
)
def test_odd_metadata_of_a_table(valid: Path, tmp_path: Path, change: Any, sentence: str) -> None:
    path = rewritten(valid / "counts.parquet", tmp_path / "t.parquet", change)
    with pytest.raises(FrspecError) as caught:
        FrequencyTable.read(path)
    assert caught.value.message == f"{path}{sentence}"


def test_odd_columns_of_a_table(valid: Path, tmp_path: Path) -> None:
    rows = len(pq.read_table(valid / "counts.parquet"))
    for columns, said in (
        ({"count": [-3] * rows}, "the column count is -3; expected counts of 0 or more that can be added"),
        ({"count": pa.array(["x"] * rows)}, "the column count is of the type string; expected int64"),
        ({"count": [None] * rows}, f"the column count is null in {rows}; expected a value in every row"),
        ({"count": [2**61] * rows}, "the column count is 2,305,843,009,213,693,952; expected counts of 0 or more"),
    ):
        path = rewritten(valid / "counts.parquet", tmp_path / "t.parquet", lambda _: None, **columns)
        with pytest.raises(ArtifactError) as caught:
            FrequencyTable.read(path)
        assert f"{path}: {said}" in caught.value.message


def test_a_table_without_counts_is_read_and_not_chosen_from(valid: Path, tmp_path: Path, tokenizer) -> None:
    table = FrequencyTable.read(valid / "counts.parquet")
    FrequencyTable({}, table.metadata).write(tmp_path / "empty.parquet")
    empty = NamedTable.read(tmp_path / "empty.parquet")
    with pytest.raises(FrspecError, match=r"^empty holds no counts: there is nothing to choose from\.$"):
        Builder([empty], tokenizer, Recipe()).subset(4)


def test_merging_a_merged_table_with_another_encoders(valid: Path) -> None:
    """A table of several encoders has no version of its own."""
    table = FrequencyTable.read(valid / "counts.parquet")
    other = FrequencyTable(table.counts, table.metadata | {"encoder": {"name": "fast", "version": "x 2", "probe": {}}})
    both = merge([table, other], ["a", "b"])
    third = FrequencyTable(table.counts, table.metadata | {"encoder": {"name": "fast", "version": "x 3", "probe": {}}})
    assert merge([both, third], ["a", "b"]).metadata["encoder"]["name"] == "fast"


def test_tables_of_one_tokenizer_have_one_highest_id(valid: Path, tmp_path: Path) -> None:
    table = FrequencyTable.read(valid / "counts.parquet")
    path = rewritten(valid / "counts.parquet", tmp_path / "t", _set("tokenizer", "highest_id", value=330))
    with pytest.raises(ArtifactError, match=r"^b: tokenizer.highest_id is 330; expected 319, as in a, whose"):
        merge([table, FrequencyTable.read(path)], ["a", "b"])


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (lambda ids: [ids[1], *ids[1:]], "the column token_id is {1} in more than one row; expected each id once."),
        (lambda ids: [-1, *ids[1:]], "the column token_id is -1 in one row; expected ids from 0 to 319."),
        (lambda ids: [320, *ids[1:]], "the column token_id is 320 in one row; expected ids from 0 to 319."),
    ],
)
def test_a_subset_holds_each_id_once_and_within_the_vocabulary(
    valid: Path, tmp_path: Path, ids: Any, sentence: str
) -> None:
    own = pq.read_table(valid / "subset.parquet")["token_id"].to_pylist()
    path = rewritten(valid / "subset.parquet", tmp_path / "s.parquet", lambda _: None, token_id=ids(own))
    with pytest.raises(ArtifactError) as caught:
        VocabularySubset.read(path)
    assert caught.value.message == f"{path}: {sentence.format(*own)}"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_set("sha256", value="x"), "sha256 is 'x'; expected text like ^[0-9a-f]{64}$."),
        (_set("k", value=41), "its number of rows is 40; expected 41."),
        (_set("vocabulary_rows", value=0), "vocabulary_rows is 0; expected at least 1."),
        (_set("origin", value=None), "origin is null; expected a JSON object."),
        (_drop("origin", "recipe"), "origin is an object; expected a recipe beside the tables."),
        (_set("nested", value="yes"), "nested is 'yes'; expected true or false."),
    ],
)
def test_odd_metadata_of_a_subset(valid: Path, tmp_path: Path, change: Any, sentence: str) -> None:
    path = rewritten(valid / "subset.parquet", tmp_path / "s.parquet", change)
    with pytest.raises(ArtifactError) as caught:
        VocabularySubset.read(path)
    assert caught.value.message == f"{path}: {sentence}"


@pytest.mark.parametrize(
    ("layout", "change", "sentence"),
    [
        ("own", {"num_attention_heads": "x"}, "/config.json: num_attention_heads is 'x'; expected a whole number."),
        ("own", {"num_key_value_heads": 0}, "/config.json: num_key_value_heads is 0; expected at least 1."),
        (
            "own",
            {"intermediate_size": 10**9},
            "/config.json: intermediate_size is 1000000000; expected at most 1048576.",
        ),
        (
            "own",
            {"intermediate_size": 10**6},
            ": tensor layers.0.mlp.gate_proj.weight has shape [24, 16], expected [1000000, 16].",
        ),
        ("own", {"head_dim": 3}, "/config.json: head_dim is 3; expected a multiple of 2."),
        ("own", {"rope_parameters": []}, "/config.json: rope_parameters is a list of 0; expected a JSON object."),
        ("own", {"frspec": {"taps": [-1]}}, "/config.json: frspec.taps.0 is -1; expected at least 0."),
        ("own", {"hidden_act": "evil"}, "/config.json: hidden_act is 'evil'; expected an activation of transformers."),
        ("eagle3", {"num_attention_heads": -1}, "/config.json: num_attention_heads is -1; expected at least 1."),
        ("eagle3", {"rms_norm_eps": None}, "/config.json: rms_norm_eps is null; expected a number."),
        ("eagle3", {"rope_scaling": 5}, "/config.json: rope_scaling is 5; expected a JSON object."),
    ],
)
def test_odd_config_of_a_head(valid: Path, tmp_path: Path, layout: str, change: dict, sentence: str) -> None:
    folder = tmp_path / "head"
    shutil.copytree(valid / layout, folder)
    config = json.loads((folder / "config.json").read_bytes()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FrspecError) as caught:
        use_head(folder)
    assert caught.value.message == f"{folder}{sentence}"


@pytest.mark.parametrize("kind", ["evil", "yarn", "longrope", "llama3"])
def test_a_rope_without_its_parameters(valid: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "head"
    shutil.copytree(valid / "own", folder)
    config = json.loads((folder / "config.json").read_bytes())
    config["rope_parameters"]["rope_type"] = kind
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=f"config.json: its RoPE is '{kind}' with"):
        use_head(folder)


@pytest.mark.parametrize(
    ("d2t", "sentence"),
    [
        (torch.zeros(12, dtype=torch.bfloat16), "the tensor d2t is of the dtype bfloat16; expected whole numbers."),
        (
            torch.zeros(12, dtype=torch.float8_e4m3fn),
            "the tensor d2t is of the dtype float8_e4m3fn; expected whole numbers.",
        ),
        (torch.zeros(12, 1, dtype=torch.int64), "tensor d2t has shape [12, 1], expected [12]."),
        (torch.zeros((), dtype=torch.int64), "tensor d2t has shape [], expected [12]."),
    ],
)
def test_a_d2t_of_the_wrong_rank_or_dtype(tmp_path: Path, d2t: torch.Tensor, sentence: str) -> None:
    folder = heads.write(tmp_path / "head", heads.eagle3() | {"d2t": d2t})
    with pytest.raises(FrspecError) as caught:
        use_head(folder)
    assert caught.value.message == f"{folder}: {sentence}"
    with pytest.raises(FrspecError):
        read_foreign(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_hidden_layers": 10**6}, "{}/config.json: num_hidden_layers is 1000000; expected at most 1024."),
        ({"vocab_size": 10**9}, "{}/config.json: vocab_size is 1000000000; expected at most 16777216."),
        ({"hidden_size": "x"}, "{} has a config.json that transformers cannot use: "),
        ({"model_type": "evil"}, "{} has a config.json that transformers cannot use: "),
        ({"num_attention_heads": 0}, "{} has a config.json that transformers cannot use: "),
        ({"hidden_size": 64}, "{} could not be loaded: "),
        ({"hidden_act": "evil"}, "{} could not be loaded: "),
    ],
)
def test_odd_config_of_a_model(valid: Path, tmp_path: Path, change: dict, sentence: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(valid / "model", folder)
    config = json.loads((folder / "config.json").read_bytes()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FrspecError) as caught:
        load_target(str(folder), device="cpu", dtype="float32")
    assert caught.value.message.startswith(sentence.format(folder))
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"\x00" * 20, b"\x80\x04K\x01."])
def test_damaged_weights_of_a_model(valid: Path, tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "model"
    shutil.copytree(valid / "model", folder)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(FrspecError, match="could not be loaded: "):
        load_target(str(folder), device="cpu", dtype="float32")
    with pytest.raises(FrspecError):
        describe(folder)


def test_a_damaged_run_folder(valid: Path, tmp_path: Path) -> None:
    shutil.copytree(valid / "head.training", tmp_path / "head.training")
    saved = SavedRun(tmp_path / "head")
    run, whole = RunFolder(saved.folder), saved.checkpoint.read_bytes()
    for content, said in (
        (b"[]", "its content is a list of 0; expected a JSON object."),
        (b"null", "its content is null"),
    ):
        run.path("run.json").write_bytes(content)
        with pytest.raises(ArtifactError) as caught:
            run.resume({"target": "x"}, record="run.json")
        assert caught.value.message.startswith(f"{saved.folder / 'run.json'}: {said}")
        assert "restart" in caught.value.hint
    for content in (b"", whole[: len(whole) // 2], b"\x80\x04K\x01."):
        saved.checkpoint.write_bytes(content)
        with pytest.raises(FrspecError, match=r"checkpoint\.safetensors is not a readable safetensors file") as caught:
            saved.load(make_trainer())
        assert "restart" in caught.value.hint
    saved.metrics.write_bytes(b'{"step": 1}\n\xff\xfe}\n')
    with pytest.raises(ArtifactError, match=r"metrics.jsonl, line 2: its content is not valid JSON"):
        saved.cut_metrics(1)


def test_a_checkpoint_of_another_head(valid: Path, tmp_path: Path) -> None:
    shutil.copytree(valid / "head.training", tmp_path / "head.training")
    saved = SavedRun(tmp_path / "head")
    tensors = load_file(saved.checkpoint)
    for change, said in (
        (
            {"weight.a": torch.zeros(3, 5)},
            "the tensor weight.a is of the shape [3, 5] and torch.float32; expected [3, 4]",
        ),
        ({"evil.a": torch.zeros(3, 4)}, "the tensor evil.a is neither; expected a weight or its state."),
    ):
        save_file(tensors | change, saved.checkpoint, {"step": "2", "best": "1.5"})
        trainer = make_trainer()
        with pytest.raises(ArtifactError) as caught:
            saved.load(trainer)
        assert said in caught.value.message
        assert trainer.step == 0
        assert torch.equal(trainer.weights["a"], torch.ones(3, 4))
    save_file(tensors, saved.checkpoint, {"best": "1.5"})
    with pytest.raises(FrspecError, match=r"checkpoint\.safetensors: step is missing; expected a value"):
        saved.load(make_trainer())


@pytest.mark.parametrize("content", ["[]", "null", '{"files": 5}', '{"sha256": 5}', "not json"])
def test_a_damaged_manifest(tmp_path: Path, tokenizer: LoadedTokenizer, content: str) -> None:
    subset = tmp_path / "ids.json"
    subset.write_text("[5, 3, 9]")
    for manifest in (tmp_path / "vocabulary.manifest.json", tmp_path / "ids.json.manifest.json"):
        manifest.write_text(content)
        with pytest.raises(FrspecError, match=r"manifest\.json"):
            import_list(read_foreign(subset), tokenizer)
        with pytest.raises(FrspecError, match=r"manifest\.json"):
            describe(subset)


def test_an_array_larger_than_its_file_is_not_allocated(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(4))
    raw = (tmp_path / "ids.npy").read_bytes()
    (tmp_path / "ids.npy").write_bytes(raw.replace(b"(4,), }         ", b"(10000000000,), }")[: len(raw)])
    with pytest.raises(FrspecError):
        read_foreign(tmp_path / "ids.npy")


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_every_bit_of_an_arrays_header(tmp_path: Path, version: tuple[int, int]) -> None:
    """numpy reads the header with Python's own parser, which raises errors of its own."""
    path = tmp_path / "ids.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array(file, np.arange(4), version=version)
    raw = path.read_bytes()
    for bit in range(8 * (len(raw) - 32)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with contextlib.suppress(FrspecError):
            read_foreign(path)
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(FrspecError):
            read_foreign(path)


@pytest.mark.parametrize("header", ["{'descr': (", "-" * 4000 + "1", "(" * 90, "{'shape': (-1,", "'''", "\\"])
def test_a_header_that_pythons_parser_gives_up(tmp_path: Path, header: str) -> None:
    path = tmp_path / "ids.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(32))
    with pytest.raises(FrspecError, match=r"ids\.npy is refused: \w[^\n]*\.$"):
        read_foreign(path)


@pytest.mark.parametrize("dtype", ["<M8[s]", "<m8[s]", "|S8", "<U2", "|V8", "<c8"])
def test_arrays_of_other_things_than_numbers(tmp_path: Path, dtype: str) -> None:
    d2t, t2d = tmp_path / "d2t.npy", tmp_path / "t2d.npy"
    np.save(d2t, np.zeros(4, np.int64))
    np.save(t2d, np.zeros(4, dtype))
    for path in (d2t, t2d):
        with pytest.raises(FrspecError, match="t2d is not a mask"):
            read_foreign(path)


@pytest.mark.parametrize(
    "value",
    [
        [torch.zeros(2, 3), torch.zeros(2, 4)],
        [torch.zeros(3, dtype=torch.bfloat16)] * 2,
        {1: torch.zeros(2, 3), 2: torch.zeros(2, 4)},
        {"d2t": [torch.zeros(2, 3), torch.zeros(2, 4)]},
        {"selected_token_ids": [torch.zeros(2, 3), torch.zeros(2, 4)], "target_vocab_size": 9},
        [[1, 2, 3], [4, 5, 6]],
    ],
)
def test_lists_of_tensors_are_no_lists_of_ids(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(FrspecError, match=r"x\.pt.* holds (Tensor|list|ndarray) values where token ids should be"):
        read_foreign(tmp_path / "x.pt")


def test_keys_that_are_no_ids_are_not_read_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"9" * 5000: 1}))
    with pytest.raises(FrspecError, match="without d2t, t2d or counts by token id"):
        read_foreign(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("info", "sentence"),
    [
        ("[]", "a list of 0; expected a JSON object"),
        ('{"vocab_size": "x"}', "vocab_size is 'x'; expected a whole number"),
    ],
)
def test_the_description_beside_a_vocabulary_map(tmp_path: Path, info: str, sentence: str) -> None:
    save_file({"vocab_map": torch.arange(4, dtype=torch.int32)}, tmp_path / "vocab_map.safetensors")
    (tmp_path / "reduced_vocab.json").write_text(info)
    with pytest.raises(ArtifactError, match=sentence):
        read_foreign(tmp_path / "vocab_map.safetensors")


@pytest.mark.parametrize("vocab", [7, "x", True])
def test_a_tokenizer_whose_vocabulary_is_none(tmp_path: Path, vocab: Any) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab}, "added_tokens": []}))
    with pytest.raises(ArtifactError, match="vocab"):
        describe(path)


@pytest.mark.parametrize("content", [7, 1.5, None, ["x"]])
def test_an_added_token_that_is_no_text(valid: Path, tmp_path: Path, content: Any) -> None:
    parsed = json.loads((valid / "model" / "tokenizer.json").read_bytes())
    parsed["added_tokens"][0]["content"] = content
    (tmp_path / "tokenizer.json").write_text(json.dumps(parsed))
    with pytest.raises(FrspecError, match=r"tokenizer\.json is not a tokenizer\.json"):
        load_tokenizer(str(tmp_path))


def test_a_token_that_is_not_spelled_in_bytes_is_taken_as_the_library_takes_it(valid: Path, tmp_path: Path) -> None:
    parsed = json.loads((valid / "model" / "tokenizer.json").read_bytes())
    index = max(parsed["model"]["vocab"].values()) + 1
    parsed["model"]["vocab"]["\u6c34 x"] = index
    (tmp_path / "tokenizer.json").write_text(json.dumps(parsed))
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.token_bytes(index).decode() == "\u6c34 x" == loaded.backend.decode([index])


@pytest.mark.parametrize("value", [-1, True, 1 << 24, [0, -1], "0", 0.0])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_ends_of_text_that_are_no_ids(valid: Path, tmp_path: Path, name: str, value: Any) -> None:
    shutil.copytree(valid / "model", tmp_path / "model")
    file = tmp_path / "model" / name
    config = json.loads(file.read_bytes()) if file.is_file() else {}
    file.write_text(json.dumps(config | {"eos_token_id": value}))
    with pytest.raises(ArtifactError, match=rf"{name}: eos_token_id is .*; expected a token id or a list of them"):
        _ = load_tokenizer(str(tmp_path / "model")).eos_ids


@pytest.mark.parametrize("whole", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("name", ["", "..", "a\0b", "in/side", "../x"])
def test_the_index_of_a_head_in_shards(tmp_path: Path, whole: str, name: str) -> None:
    heads.write(tmp_path / "head", heads.eagle3())
    (tmp_path / "head" / "model.safetensors").unlink()
    (tmp_path / "head" / f"{whole}.index.json").write_text(json.dumps({"weight_map": {"fc.weight": name}}))
    with pytest.raises(FrspecError, match="which is not a file in its own folder"):
        use_head(tmp_path / "head")


def test_a_subset_with_odd_slices(valid: Path, tmp_path: Path) -> None:
    path = rewritten(valid / "subset.parquet", tmp_path / "s.parquet", _set("origin", "recipe", "shards", value="x"))
    with pytest.raises(ArtifactError, match=r"origin\.recipe\.shards is 'x'; expected a whole number"):
        VocabularySubset.read(path)


def test_weights_that_the_index_names_and_are_not_there(valid: Path, tmp_path: Path) -> None:
    from frspec_cli.models.identity import folder_identity

    shutil.copytree(valid / "model", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(FrspecError, match=r"gone\.safetensors is not a readable safetensors file"):
        folder_identity(tmp_path / "model")


def test_a_list_of_tokens_with_something_else_in_it_is_shown(tmp_path: Path, cli: Any) -> None:
    (tmp_path / "x.json").write_text('{"methods": [{"id": 1, "token": "a"}, 5, {"id": 2}], "prompts": 3}')
    code, out, err = cli("inspect", tmp_path / "x.json")
    assert (code, err) == (0, "")
    assert "methods 2: 5" in out
