"""JSON lines: the same records however the file is compressed; what is wrong is named with its line or byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from frspec_cli.corpus import jsonl
from frspec_cli.corpus.jsonl import count_lines, first_json, read_jsonl
from frspec_cli.errors import FrspecError
from tests.counting.corpora import write

RECORDS = [{"n": 1}, ["\u00fc"], {"n": 3}]
LINES = b"\xef\xbb\xbf" + "\n\n".join(json.dumps(record, ensure_ascii=False) for record in RECORDS).encode()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("renamed", [False, True])
def test_plain_and_compressed_files_hold_the_same_records(tmp_path: Path, suffix: str, renamed: bool) -> None:
    path = write(tmp_path / f"a.jsonl{suffix}", LINES)
    if renamed:  # then the first bytes tell
        path = path.rename(tmp_path / "a.jsonl")
    assert list(read_jsonl(path)) == [(1, RECORDS[0]), (3, RECORDS[1]), (5, RECORDS[2])]
    assert count_lines(path) == 3
    assert first_json(path) == RECORDS[0]


def test_an_indented_file_is_one_value(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json.zst", json.dumps(RECORDS, indent=2).encode())
    assert first_json(path) == RECORDS
    assert first_json(write(tmp_path / "b.bin", b"\x00\x01")) is None


def test_a_bad_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", b'{"n": 1}\n{"n": \n')
    with pytest.raises(FrspecError, match=r"a\.jsonl, line 2 is not valid JSON: .*column"):
        list(read_jsonl(path))
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 20)
    with pytest.raises(FrspecError, match=r"b\.jsonl, line 2 is longer than 20 bytes"):
        list(read_jsonl(write(tmp_path / "b.jsonl", b"1\n" + b"2" * 21)))


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("read", [first_json, count_lines, lambda path: list(read_jsonl(path))])
def test_a_truncated_file_is_named_with_its_byte(tmp_path: Path, suffix: str, read) -> None:
    path = write(tmp_path / f"a.jsonl{suffix}", LINES * 3)
    path.write_bytes(path.read_bytes()[:16])
    with pytest.raises(FrspecError, match=rf"a\.jsonl{suffix} is broken: .* at byte {path.stat().st_size}") as caught:
        read(path)
    assert caught.value.hint == "Get the file again."


def test_missing_files_and_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FrspecError, match="there is no file"):
        count_lines(tmp_path / "none.jsonl")
    with pytest.raises(FrspecError, match="is a folder, not a file"):
        count_lines(tmp_path)
