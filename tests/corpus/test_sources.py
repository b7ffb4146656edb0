"""The same files give the same sorted shards, whatever the order and form in which a user names them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from frspec_cli.corpus import shards as shards_module
from frspec_cli.corpus.documents import Fields, Skipped
from frspec_cli.corpus.options import Selection
from frspec_cli.corpus.reading import read_shard
from frspec_cli.corpus.sources import dataset_name, find_shards
from frspec_cli.corpus.streams import BrokenFile
from frspec_cli.errors import FrspecError, as_flags
from tests.counting.corpora import write


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for name in ("b/web-00001-of-00002.jsonl", "b/web-00000-of-00002.jsonl", "a/notes.txt", "a/code.py", ".git/x.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"text": "x"}\n')
    return folder


def _labels(*sources: Path | str, **selection) -> list[str]:
    return [shard.label for shard in find_shards([str(source) for source in sources], Selection(**selection))]


def test_a_folders_files_are_those_of_known_formats(corpus: Path) -> None:
    assert _labels(corpus) == ["a/notes.txt", "b/web-00000-of-00002.jsonl", "b/web-00001-of-00002.jsonl"]
    assert {shard.source for shard in find_shards([str(corpus)])} == {"corpus"}


def test_order_and_form_of_the_sources_do_not_matter(corpus: Path) -> None:
    files = [*sorted(corpus.glob("b/*")), corpus / "a" / "notes.txt"]
    assert (
        _labels(*files) == _labels(*reversed(files)) == _labels(corpus) == _labels(f"{corpus}/b/*.jsonl", corpus / "a")
    )


def test_a_file_named_twice_counts_once_and_is_reported(corpus: Path) -> None:
    said: list[str] = []
    shards = find_shards([str(corpus), str(corpus / "a/notes.txt")], say=said.append)
    assert len(shards) == 3
    assert said[1:] == ["1 files were named more than once; each is counted once."]


def test_named_files_of_any_suffix_are_plain_text(corpus: Path) -> None:
    for labels in (_labels(corpus / "a/code.py"), _labels(f"{corpus}/**/*.py"), _labels(corpus, glob="**/*.py")):
        assert [Path(label).name for label in labels] == ["code.py"]
    shard = find_shards([str(corpus)], Selection(glob="*.py"))[0]
    assert (shard.format, shard.source) == ("text", "corpus")


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [("*.py", True), ("**/*.py", True), ("a/*.py", True), ("b/*.py", False), ("a/**/*.py", True), ("*/x.py", False)],
)
def test_patterns_in_folders(corpus: Path, pattern: str, matches: bool) -> None:
    if matches:
        assert _labels(corpus, glob=pattern) == ["code.py"]
    else:
        with pytest.raises(FrspecError, match="holds no file"):
            find_shards([str(corpus)], Selection(glob=pattern))


def test_a_missing_or_empty_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FrspecError, match="there is no file or folder nowhere"):
        find_shards(["nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FrspecError, match="holds no file that frspec reads"):
        find_shards([str(tmp_path / "empty")])
    with pytest.raises(FrspecError, match=r"file://.*nothing"):
        find_shards([f"file://{tmp_path}/nothing.txt"])


def test_formats_are_known_by_their_suffix_compressed_or_not(tmp_path: Path) -> None:
    names = ["a.ndjson", "b.csv", "c.tsv.gz", "d.jsonl.bz2", "e.txt.xz", "f.NDJSON.ZST"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    shards = find_shards([str(tmp_path)])
    assert [(shard.label, shard.format, shard.compression) for shard in shards] == [
        ("a.ndjson", "jsonl", ""),
        ("b.csv", "csv", ""),
        ("c.tsv.gz", "tsv", "gz"),
        ("d.jsonl.bz2", "jsonl", "bz2"),
        ("e.txt.xz", "text", "xz"),
        ("f.NDJSON.ZST", "jsonl", "zst"),
    ]


def test_what_a_folder_holds_and_is_not_read_is_said(corpus: Path, tmp_path: Path) -> None:
    (corpus / "a/.hidden").write_text("x")
    (corpus / "a/gone").symlink_to(tmp_path / "nothing")
    (corpus / "linked").symlink_to(tmp_path)
    said: list[str] = []
    assert len(find_shards([str(corpus)], say=said.append)) == 3
    assert as_flags(said[0]) == (
        f"passed over in {corpus}: 2 hidden (.git/, a/.hidden); 1 linked folders (linked/); 1 not files (a/gone); "
        "1 of a suffix that frspec does not know (a/code.py). --glob '*' reads any file as plain text."
    )
    said.clear()
    find_shards([str(corpus)], Selection(glob="**/*.py"), say=said.append)
    assert said == ["passed over in " + str(corpus) + ": 1 hidden (.git/); 1 linked folders (linked/)."]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x.doc").write_text("x")
    with pytest.raises(FrspecError, match=r"holds no file that frspec reads \(.*\); 1 of a suffix .* \(x\.doc\)\."):
        find_shards([str(tmp_path / "other")])


def test_a_named_file_that_is_taken_for_plain_text_is_said(corpus: Path) -> None:
    said: list[str] = []
    find_shards([str(corpus / "a/code.py"), str(corpus / "a/notes.txt")], say=said.append)
    assert said == ["read as plain text, since frspec knows no other way for its suffix: code.py."]


def test_a_files_label_has_no_shard_number() -> None:
    assert dataset_name("wiki-00001-of-00042.jsonl.zst") == "wiki"
    assert dataset_name("train_7.parquet") == "train"
    assert dataset_name("2024.txt") == "2024"
    assert dataset_name("notes.tar.gz") == "notes.tar"


def test_too_many_names_are_not_labels(tmp_path: Path) -> None:
    files = [tmp_path / f"{chr(97 + index)}{chr(97 + index // 26)}.txt" for index in range(40)]
    for file in files:
        file.write_text("x")
    assert {shard.source for shard in find_shards([str(file) for file in files])} == {tmp_path.name}
    assert {shard.source for shard in find_shards([str(file) for file in files[:3]])} == {"aa", "ba", "ca"}
    assert {shard.source for shard in find_shards([str(files[0])], Selection(name="mine"))} == {"mine"}


def test_small_text_files_are_bundled_and_large_ones_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "BUNDLE_BYTES", 100)
    monkeypatch.setattr(shards_module, "PIECE_BYTES", 100)
    for index in range(8):
        (tmp_path / f"{index}.txt").write_text("x" * 30)
    (tmp_path / "large.jsonl").write_text("x" * 250)
    shards = find_shards([str(tmp_path)])
    assert [(shard.label, len(shard.paths), shard.start, shard.size) for shard in shards] == [
        ("0.txt", 3, 0, 90),
        ("3.txt", 3, 0, 90),
        ("6.txt", 2, 0, 60),
        ("large.jsonl", 1, 0, 100),
        ("large.jsonl", 1, 100, 100),
        ("large.jsonl", 1, 200, 50),
    ]


def test_urls_are_found_like_paths(corpus: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in corpus.glob("*/*.*"):
        memory.pipe(f"/mem/{file.relative_to(corpus)}", file.read_bytes())
    expected = [
        "memory:///mem/a/notes.txt",
        "memory:///mem/b/web-00000-of-00002.jsonl",
        "memory:///mem/b/web-00001-of-00002.jsonl",
    ]
    assert [label.replace("memory://mem", "memory:///mem") for label in _labels("memory://mem")] == expected
    assert len(_labels("memory://mem/b/*.jsonl")) == 2
    assert [shard.source for shard in find_shards(["memory://mem/a/notes.txt"])] == ["notes"]


@pytest.mark.parametrize("names", [("a.txt", "b.txt.gz", "c.txt.zst", "d.txt"), ("a.txt.gz", "b.txt", "c.txt.gz")])
def test_a_folder_may_mix_plain_and_compressed_texts(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path / name, f"the text of {name}".encode())
    documents = [item for shard in find_shards([str(tmp_path)]) for item in read_shard(shard, Fields(), None)]
    assert [document.text for document in documents] == [f"the text of {name}" for name in names]


def test_a_broken_file_among_small_ones_is_the_one_that_is_named(tmp_path: Path) -> None:
    for name in ("a.txt.gz", "b.txt.gz", "c.txt.gz"):
        write(tmp_path / name, f"the text of {name}".encode())
    broken = tmp_path / "b.txt.gz"
    broken.write_bytes(broken.read_bytes()[:-4])
    outcomes = []
    for shard in find_shards([str(tmp_path)]):
        try:
            outcomes += [item.text for item in read_shard(shard, Fields(), None)]
        except BrokenFile as error:
            outcomes.append(error.message)
    assert outcomes == [
        "the text of a.txt.gz",
        f"b.txt.gz is broken: the gzip data ends too early at byte {broken.stat().st_size}.",
        "the text of c.txt.gz",
    ]


def test_a_skipped_file_of_a_bundle_is_named_with_the_position_of_the_fault(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name, data in {"a.txt": b"fine", "inner/b.txt": b"caf\xe9", "inner/c.txt": b"long" * 50}.items():
        (tmp_path / name).write_bytes(data)
    [shard] = find_shards([str(tmp_path)])
    skipped = [item for item in read_shard(shard, Fields(longest=100), None) if isinstance(item, Skipped)]
    assert [(item.file, item.reason, item.detail) for item in skipped] == [
        ("inner/b.txt", "invalid UTF-8", "byte 0xe9 at 3"),
        ("inner/c.txt", "too long", "200 bytes"),
    ]


def test_what_an_unfinished_run_keeps_is_not_text(corpus: Path) -> None:
    expected = _labels(corpus)
    for name in ("counts.parquet.ledger", "b/head.training"):
        (corpus / name).mkdir()
        for file in ("lock", "plan.json", "table.parquet"):
            (corpus / name / file).write_text("{}")
    (corpus / "mine.ledger").mkdir()  # a folder of that name that no run holds
    (corpus / "mine.ledger" / "notes.txt").write_text("text")
    said: list[str] = []
    assert [shard.label for shard in find_shards([str(corpus)], say=said.append)] == [
        *expected,
        "mine.ledger/notes.txt",
    ]
    assert "2 kept by unfinished runs (counts.parquet.ledger/, b/head.training/)" in said[0]
    assert _labels(f"{corpus}/**/*.*") == ["a/code.py", *expected[1:], "mine.ledger/notes.txt"]


def test_a_name_that_is_not_utf8_is_shown_escaped(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        (folder / os.fsdecode(b"in\xff")).mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    for name in (b"a\xe9.txt", b"in\xff/b.txt"):
        (folder / os.fsdecode(name)).write_bytes(b"\xff")
    [shard] = find_shards([str(folder)])
    assert (shard.label, shard.source) == ("a\\xe9.txt", "caf\\xe9")
    assert [item.file for item in read_shard(shard, Fields(), None)] == ["a\\xe9.txt", "in\\xff/b.txt"]
    assert find_shards([str(folder / os.fsdecode(b"a\xe9.txt"))])[0].source == "a\\xe9"


@pytest.mark.parametrize("name", ["hub:../../etc", "hub:..", "hub:/tmp/../etc", "hub:a/../../etc"])
def test_a_dataset_that_leads_out_of_its_folder_is_refused(name: str) -> None:
    with pytest.raises(FrspecError, match="is not the name of a dataset: it leads out of the folder"):
        find_shards([name])


@pytest.mark.parametrize(("url", "extra"), [("https://no.invalid/x.txt", "http"), ("s3://bucket/x.txt", "s3")])
def test_a_url_whose_package_is_missing_names_what_to_install(url: str, extra: str, monkeypatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("a package is missing.")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(FrspecError, match="cannot be listed: a package is missing") as caught:
        find_shards([url])
    assert caught.value.hint == f"pip install 'fsspec[{extra}]'"
