"""Every record becomes a document or is skipped for a reason: nothing is lost, nothing crashes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from frspec_cli.corpus.documents import Document, Fields, Skipped
from frspec_cli.corpus.reading import read_shard
from frspec_cli.corpus.shards import Shard
from tests.counting.corpora import write

CASES = [
    (b'{"text": "plain"}', "plain"),
    (b'{"text": "NaN beside it", "score": NaN}', "NaN beside it"),
    (b'{"text": "zero \\u0000 byte"}', "zero \0 byte"),
    (b'{"text": "<|endoftext|></s>"}', "<|endoftext|></s>"),
    (b'{"text": "twice", "text": "the last one counts"}', "the last one counts"),
    (b'"a bare string"', "a bare string"),
    (b'{"text": "carriage return"}\r', "carriage return"),
    (b'{"text": "broken', "broken JSON"),
    (b"{'text': 'python'}", "broken JSON"),
    (b'{"other": "x"}', "missing field"),
    (b"[1, 2]", "missing field"),
    (b"17", "missing field"),
    (b'{"text": null}', "null"),
    (b'{"text": 5}', "not a string"),
    (b'{"text": ["a"]}', "not a string"),
    (b'{"text": {"a": 1}}', "not a string"),
    (b'{"text": "\xff"}', "invalid UTF-8"),
    (b'{"text": "\\ud800 alone"}', "invalid UTF-8"),
    (b'{"text": "' + b"x" * 101 + b'"}', "too long"),
    (b'{"text": "' + b"x" * 900 + b'"}', "too long"),
    (b'{"text": ""}', "empty"),
    (b"", "empty"),
    (b"   ", "empty"),
    (b'{"conversations": [{"role": "user"}, 3]}', "bad conversation"),
    (b'{"conversations": []}', "not a string"),
]


def _read(path: Path, data: bytes, fields: Fields | None = None, form: str = "jsonl") -> list[Document | Skipped]:
    path.write_bytes(data)
    shard = Shard(path.name, (str(path),), form, size=len(data), source="here")
    return list(read_shard(shard, fields or Fields(longest=100), hashlib.sha256()))


def _outcome(item: Document | Skipped) -> str:
    return item.reason if isinstance(item, Skipped) else item.text


def test_each_record_is_a_document_or_has_a_reason(tmp_path: Path) -> None:
    items = _read(tmp_path / "a.jsonl", b"\n".join(line for line, _ in CASES))
    assert [_outcome(item) for item in items] == [outcome for _, outcome in CASES]
    assert [item.line for item in items] == list(range(1, len(CASES) + 1))


def test_endless_nesting_is_broken_json(tmp_path: Path) -> None:
    assert _outcome(_read(tmp_path / "a.jsonl", b"[" * 100_000, Fields())[0]) == "broken JSON"


def test_ten_thousand_hostile_records_are_all_accounted_for(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    sample = [CASES[index] for index in random.integers(len(CASES), size=10_000)]
    items = _read(tmp_path / "a.jsonl", b"\n".join(line for line, _ in sample) + b"\n")
    assert Counter(_outcome(item) for item in items) == Counter(outcome for _, outcome in sample)


def test_random_bytes_never_crash(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    data = random.integers(0, 256, size=200_000, dtype=np.uint8).tobytes()
    items = _read(tmp_path / "a.jsonl", data)
    assert len(items) == data.count(b"\n") + (not data.endswith(b"\n"))


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert _outcome(_read(tmp_path / "a.jsonl", mark + b'{"text": "x"}')[0]) == "x"
    assert _outcome(_read(tmp_path / "a.txt", mark + b"x", form="text")[0]) == "x"
    assert _outcome(_read(tmp_path / "a.txt", mark + b"x", form="lines")[0]) == "x"


def test_dotted_fields_and_labels(tmp_path: Path) -> None:
    record = {"body": {"content": "deep"}, "meta": {"kind": "web"}, "a.b": "flat"}
    line = json.dumps(record).encode()
    deep = _read(tmp_path / "a.jsonl", line, Fields("body.content", "meta.kind"))[0]
    flat = _read(tmp_path / "a.jsonl", line, Fields("a.b", "meta.none"))[0]
    assert (_outcome(deep), deep.source) == ("deep", "web")
    assert (_outcome(flat), flat.source) == ("flat", "here")


def test_text_files_are_whole_documents_or_lines(tmp_path: Path) -> None:
    data = "eins\nzw\u00f6lf\r\n\nvier".encode()
    assert [_outcome(item) for item in _read(tmp_path / "a.txt", data, form="text")] == [data.decode()]
    assert [_outcome(item) for item in _read(tmp_path / "a.txt", data, form="lines")] == [
        "eins",
        "zw\u00f6lf",
        "empty",
        "vier",
    ]
    assert _outcome(_read(tmp_path / "a.txt", b"latin \xe4", form="text")[0]) == "invalid UTF-8"


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_json_files_hold_a_list_or_a_record_a_line(tmp_path: Path, suffix: str) -> None:
    records = [{"text": f"number {index}"} for index in range(300)] + [{"text": None}, "bare", {"text": "\ud800"}]
    expected = [f"number {index}" for index in range(300)] + ["null", "bare", "invalid UTF-8"]
    for data in (json.dumps(records, indent=2), "\n".join(map(json.dumps, records))):
        path = write(tmp_path / f"a.json{suffix}", data.encode())
        shard = Shard(path.name, (str(path),), "json", suffix[1:], size=path.stat().st_size)
        assert [_outcome(item) for item in read_shard(shard, Fields(), None)] == expected
