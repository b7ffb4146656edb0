"""Tables that spell their tokens serve without the tokenizer, and what is built from them is what it would build."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.shipped_tables import record_of
from frspec_cli.counting.table import FOLDS, FrequencyTable
from frspec_cli.errors import ArtifactError, FrspecError
from frspec_cli.subsets import shipped_tables
from frspec_cli.subsets.exporting import export_subset
from frspec_cli.subsets.formats import WRITERS
from frspec_cli.subsets.shipped_tables import FAMILIES, find_table, short_name
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.tokens.tokenizer import LoadedTokenizer

TEXT = "Made of test text."


def _spelled(table: FrequencyTable, tokenizer: LoadedTokenizer, name: str = "qwen3") -> FrequencyTable:
    """The table as it would be shipped under a short name."""
    totals = table.totals()
    seen = np.flatnonzero(totals).tolist()
    tokens = dict(zip(seen, tokenizer.tokens_bytes(seen), strict=True))
    record = record_of(tokenizer, name, totals) | {"model_rows": None}
    return replace(table, tokens=tokens, metadata=table.metadata | {"tokenizer": record, "text": TEXT})


@pytest.fixture(params=["byte_level", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> LoadedTokenizer:
    """Each of the two kinds in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def table(tokenizer: LoadedTokenizer, make_table: Callable[..., FrequencyTable]) -> FrequencyTable:
    """Counts of many tokens in two sources, every seventh one never seen."""
    random = np.random.default_rng(5)
    counts = random.integers(0, 90, size=(2, FOLDS, tokenizer.highest_id + 1))
    counts[:, :, ::7] = 0
    counts[:, :, list(tokenizer.forced_candidates)] = 0
    counts[0, :, list(tokenizer.forced_candidates)[:1]] = 3
    return make_table(tokenizer, {"web": counts[0], "books": counts[1]})


@pytest.fixture
def shipped(table: FrequencyTable, tokenizer: LoadedTokenizer, tmp_path: Path, monkeypatch) -> Path:
    """The data folder, in which that table ships as qwen3's."""
    folder = tmp_path / "data"
    (folder / "tables").mkdir(parents=True)
    _spelled(table, tokenizer).write(folder / "tables" / "qwen3.parquet", small=True)
    monkeypatch.setattr(shipped_tables, "data_folder", lambda: folder)
    return folder


def test_a_spelled_table_is_read_as_it_was_written(tokenizer, table, tmp_path) -> None:
    written = _spelled(table, tokenizer)
    for small in (True, False):
        written.write(tmp_path / "t.parquet", small=small)
        read = FrequencyTable.read(tmp_path / "t.parquet")
        assert read.tokens == written.tokens
        assert all((read.counts[name] == written.counts[name]).all() for name in written.sources)
        [recorded] = FrequencyTable.read_tokenizers(tmp_path / "t.parquet")
        assert recorded.record() == tokenizer.record() | {"reference": "qwen3"}
        assert list(recorded.vocabulary) == list(tokenizer.vocabulary)
        assert recorded.forced_candidates == tokenizer.forced_candidates
        known = sorted(recorded.spelled)
        assert set(tokenizer.forced_candidates) <= set(known)
        assert recorded.tokens_bytes(known) == tokenizer.tokens_bytes(known)
    unseen = next(index for index in tokenizer.vocabulary if index not in recorded.spelled)
    with pytest.raises(FrspecError, match=f"does not know how token {unseen} is spelled, which it never counted"):
        recorded.tokens_bytes([unseen])


@pytest.mark.parametrize(
    "options",
    [
        ["--k", "300"],
        ["--k", "300", "--script-budget", "cjk=4"],
        ["--k", "300", "--k", "310", "--mix", "web=3", "--mix", "books=1"],
        ["--k", "37", "--forced", "eos", "--multiple-of", "8"],
        ["--coverage", "0.95"],
    ],
)
def test_a_short_name_builds_what_the_tokenizer_builds(cli, tokenizer, table, shipped, tmp_path, options) -> None:
    table.write(tmp_path / "qwen3.parquet")
    several = options.count("--k") > 1
    for out, given in (("with", [tmp_path / "qwen3.parquet", "--tokenizer", tokenizer.path.parent]), ("without", [])):
        name = [] if given else ["--model", "Qwen3-8B"]
        code, _, err = cli("build-vocab", *given, *name, *options, "--out", tmp_path / out)
        assert code == 0, err
    assert f"the one that ships for Qwen3-8B is taken (qwen3, {table.metadata['tokens']:,} tokens): {TEXT}" in err
    file = "subset-310.parquet" if several else ""
    ours, theirs = (VocabularySubset.read(tmp_path / out / file) for out in ("without", "with"))
    assert ours.token_ids.tolist() == theirs.token_ids.tolist()
    assert ours.tokens == theirs.tokens
    assert ours.counts.tolist() == theirs.counts.tolist()
    assert ours.reasons.tolist() == theirs.reasons.tolist()
    differing = {name for name in ours.metadata if ours.metadata[name] != theirs.metadata[name]}
    assert differing == {"tokenizer", "origin"}  # the tokenizer's name, the table's file
    assert ours.metadata["tokenizer"] == theirs.metadata["tokenizer"] | {"reference": "qwen3"}
    for to in WRITERS:
        exports = [_exported(subset, to, tmp_path / f"{side}-{to}") for side, subset in (("a", ours), ("b", theirs))]
        assert exports[0] == exports[1]


def _exported(subset: VocabularySubset, to: str, out: Path) -> dict[str, bytes] | str:
    """name -> bytes of what an export writes, or why it refuses."""
    try:
        export_subset(subset, to, out)
    except FrspecError as error:
        return error.message
    files = sorted(out.rglob("*")) if out.is_dir() else [out]
    return {file.name.replace(out.name, ""): file.read_bytes() for file in files if "manifest" not in file.name}


def test_a_tokenizer_at_hand_finds_its_table(byte_level, make_table, tmp_path, monkeypatch) -> None:
    (tmp_path / "tables").mkdir()
    table = make_table(byte_level, {"web": dict.fromkeys(range(60, 120), 20)})
    _spelled(table, byte_level).write(tmp_path / "tables" / "qwen3.parquet")
    monkeypatch.setattr(shipped_tables, "data_folder", lambda: tmp_path)
    path, found = find_table(str(byte_level.path.parent), warn=pytest.fail)
    assert (path.name, found.reference) == ("qwen3.parquet", str(byte_level.path.parent))
    warnings: list[str] = []
    other = tmp_path / "tokenizer.json"  # of a later model of the family: a reserved token has a name
    other.write_text(byte_level.path.read_text().replace("<|reserved_0|>", "<|tool|>"))
    assert find_table(str(other), warn=warnings.append)[0] == path
    assert "differ, but all 60 counted ids mean the same bytes in both" in warnings[0]
    for text in (other.read_text(), byte_level.path.read_text()):
        other.write_text(json.dumps(json.loads(text) | {"normalizer": {"type": "NFKC"}}))
        with pytest.raises(FrspecError, match="no frequency table ships for the tokenizer of") as caught:
            find_table(str(other), warn=pytest.fail)
    assert "it has the vocabulary of qwen3 and splits text differently (in normalizer)" in caught.value.message


def test_a_tokenizer_with_the_same_counts_has_its_own_forced_tokens(cli, byte_level, make_table, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    (folder / "tables").mkdir(parents=True)
    table = _spelled(make_table(byte_level, {"web": dict.fromkeys(range(60, 120), 20)}), byte_level, "gpt-4o")
    other = record_of(byte_level, "other", 0) | {"forced": {"5": "eos"}, "tokens": {"5": "3c3e"}}
    other |= {"reference": "gpt-oss", "fingerprint": "f"}
    replace(table, metadata=table.metadata | {"also": [other]}).write(folder / "tables" / "gpt-4o.parquet")
    monkeypatch.setattr(shipped_tables, "data_folder", lambda: folder)
    code, _, err = cli("build-vocab", "--model", "gpt-oss-20b", "--k", 10, "--out", tmp_path / "s.parquet")
    assert code == 0, err
    subset = VocabularySubset.read(tmp_path / "s.parquet")
    assert subset.metadata["tokenizer"]["reference"] == "gpt-oss"
    assert 5 in subset.token_ids[: subset.forced]
    assert subset.tokens[subset.token_ids.tolist().index(5)] == b"<>"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        *((name, name) for name in FAMILIES),
        ("Qwen3-8B-Instruct", "qwen3"),
        ("qwen_3", "qwen3"),
        ("Meta-Llama-3-70B", "llama3"),
        ("gemma-3-27b-it", "gemma3"),
        ("DeepSeek-V3", "deepseek-v3"),
        ("gpt4o-mini", "gpt-4o"),
        ("gpt-oss-120b", "gpt-oss"),
        ("qwen3.5-4b", None),
        ("llama-3.1-8b", None),
        ("qwen2.5", None),
        ("gemma3-270m", None),  # a model that frspec fetches, with a tokenizer of its own
        ("Qwen/Qwen3-8B", None),
    ],
)
def test_short_names_as_people_write_them(name: str, short: str | None) -> None:
    assert short_name(name) == short


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch) -> None:
    (tmp_path / "qwen3").mkdir()
    monkeypatch.chdir(tmp_path)
    assert short_name("qwen3") is None


def test_other_names_are_refused_with_the_nearest(cli, shipped, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, expected_code, words in (
        (["--model", "qven3"], 1, "Did you mean qwen3"),
        (["--model", "llama-3.1-8b"], 1, "Did you mean llama3"),
        (["--model", "llama3"], 1, "the frequency table of llama3 is not installed"),
        (["--model", "Qwen/Qwen3-8B"], 1, "--model qwen3 takes the table that ships"),
        ([], 2, "name a frequency table, or with --model a model for which one ships"),
    ):
        code, _, err = cli("build-vocab", *arguments, "--k", 10, "--out", tmp_path / "s.parquet")
        assert (code, words in " ".join(err.split())) == (expected_code, True), err
    assert not (tmp_path / "s.parquet").exists()


def test_unseen_tokens_need_the_tokenizer(cli, shipped, tokenizer, tmp_path) -> None:
    code, _, err = cli(
        "build-vocab", "--model", "qwen3", "--k", len(tokenizer.vocabulary), "--pad", "--out", tmp_path / "s"
    )
    assert code == 1
    assert "does not know how token" in " ".join(err.split())
    assert "Name a folder with the tokenizer.json with --model" in " ".join(err.split())


def test_inspect_and_coverage_know_the_names(cli, shipped, tmp_path) -> None:
    code, out, err = cli("inspect", "qwen3", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert (value["kind"], value["text"], value["spelled"]) == ("frequency-table", TEXT, True)
    assert value["file"] == str(shipped / "tables" / "qwen3.parquet")
    assert "tokens" not in value["tokenizer"]
    assert cli("build-vocab", "--model", "qwen3", "--k", 290, "--out", tmp_path / "s.parquet")[0] == 0
    code, out, err = cli("coverage", tmp_path / "s.parquet", "--on", "qwen3", "--json")
    assert code == 0, err
    value = json.loads(out)
    assert {row["how"] for row in value["rows"]} == {"held out by fold"}
    assert {row["script"] for row in value["rows"]} > {"all", "Latin"}  # known without the tokenizer
    assert len(value["tokens"][0]["lost"]) == 10


def test_a_damaged_spelling_is_refused(tokenizer, table, tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _spelled(table, tokenizer).write(tmp_path / "t.parquet")
    whole = pq.ParquetFile(tmp_path / "t.parquet").read()
    column = whole.column_names.index("token")
    for values in (
        pa.array([None] * len(whole), pa.binary()),
        pa.array([b"x"] * len(whole), pa.binary()),
        pa.array(["x"] * len(whole)),
    ):
        pq.write_table(whole.set_column(column, "token", values), tmp_path / "bad.parquet")
        with pytest.raises(ArtifactError, match="the column token is"):
            FrequencyTable.read(tmp_path / "bad.parquet")


def test_a_table_without_folds_shows_what_a_budget_costs_in_sample(cli, byte_level, make_table, tmp_path) -> None:
    counts = np.zeros((FOLDS, byte_level.highest_id + 1), dtype=np.int64)
    counts[0, 60:400] = np.arange(340, 0, -1)
    make_table(byte_level, {"web": counts}).write(tmp_path / "t.parquet")
    arguments = ["--tokenizer", byte_level.path.parent, "--k", 200, "--script-budget", "cjk=4", "--out", tmp_path / "s"]
    code, _out, err = cli("build-vocab", tmp_path / "t.parquet", *arguments)
    assert code == 0, err
    assert "Script budgets, in sample, since the table has no folds" in err


def _texts(value: object) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    for each in value if isinstance(value, list) else ():
        yield from _texts(each)
    for each in value.values() if isinstance(value, dict) else ():
        yield from _texts(each)


def test_what_ships_is_whole() -> None:
    """The real tables: small enough for the wheel, each with a card, no paths of the machine that counted."""
    folder = shipped_tables.data_folder() / "tables"
    paths = sorted(folder.glob("*.parquet"))
    assert [path.stem for path in paths] == ["deepseek-v3", "gemma3", "gpt-4o", "llama3", "qwen3"]
    assert sum(path.stat().st_size for path in paths) < 8_000_000
    for path in paths:
        assert path.with_suffix(".md").is_file()
        recorded = FrequencyTable.read_tokenizers(path)
        assert recorded[0].reference == path.stem
        assert all(each.eos_ids and set(each.forced_candidates) <= set(each.spelled) for each in recorded)
        metadata = json.loads(pq.read_schema(path).metadata[b"frspec"])
        assert all(not PurePosixPath(shard["path"]).is_absolute() for shard in metadata["shards"])
        assert not [word for text in _texts(metadata) for word in text.split() if word.startswith("/")]
        assert b"/tmp/" not in path.read_bytes()
    assert [each.reference for each in FrequencyTable.read_tokenizers(folder / "gpt-4o.parquet")] == [
        "gpt-4o",
        "gpt-oss",
    ]
