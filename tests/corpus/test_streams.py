"""Chunks, lines and containers: what is read is what was written, wherever it is cut; a broken file is named with its byte."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from frspec_cli.corpus import streams
from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import BrokenFile, content_digest, lines, piece_chunks, text_chunks

COMPRESSORS = [("gz", gzip.compress), ("zst", zstandard.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
TEXT = b"".join(b"line %d of the file\n" % number for number in range(40_000))


def _shard(path: Path, compression: str = "", start: int = 0, stop: int | None = None) -> Shard:
    size = path.stat().st_size if stop is None else stop - start
    return Shard(path.name, (str(path),), "jsonl", compression, start, stop, size)


def _read(path: Path, compression: str) -> bytes:
    return b"".join(text_chunks(_shard(path, compression), str(path), hashlib.sha256()))


@given(st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\r", b"\n")), max_size=20))
def test_lines_do_not_depend_on_how_the_bytes_arrive(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    expected = whole.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert list(lines(chunks, longest=1000)) == expected


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 7))
def test_a_line_that_is_too_long_is_none_and_spoils_no_other(lengths: list[int], step: int) -> None:
    whole = b"".join(b"x" * length + b"\n" for length in lengths)
    chunks = [whole[start : start + step] for start in range(0, len(whole), step)]
    assert list(lines(chunks, longest=10)) == [None if length > 10 else b"x" * length for length in lengths]


@settings(max_examples=60)
@given(st.lists(st.sampled_from([b"", b"a", b"bb", b"ccc\xc3\xbc"]), max_size=12), st.integers(1, 9), st.booleans())
def test_byte_ranges_share_the_lines_out(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], step: int, ends: bool
) -> None:
    whole = b"\n".join(parts) + (b"\n" if ends else b"")
    path = tmp_path_factory.mktemp("ranges") / "file.jsonl"
    path.write_bytes(whole)
    expected = list(lines([whole], longest=1000))
    pieces = []
    for start in range(0, len(whole), step):
        shard = _shard(path, start=start, stop=min(start + step, len(whole)))
        digest = hashlib.sha256()
        pieces += list(lines(piece_chunks(shard, digest), longest=1000))
        assert digest.hexdigest() == hashlib.sha256(whole[start : start + step]).hexdigest() == content_digest(shard)
    assert pieces == expected


@pytest.mark.parametrize(("compression", "compress"), COMPRESSORS)
def test_several_members_are_read_as_one(tmp_path: Path, compression: str, compress) -> None:
    path = tmp_path / f"file.{compression}"
    path.write_bytes(compress(TEXT) + compress(b"") + compress(b"more\n"))
    assert _read(path, compression) == TEXT + b"more\n"


@pytest.mark.parametrize(("compression", "compress"), COMPRESSORS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_container_names_file_and_byte(tmp_path: Path, compression: str, compress, share: float) -> None:
    whole = compress(TEXT)
    path = tmp_path / f"part.jsonl.{compression}"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        BrokenFile, match=rf"part\.jsonl\.{compression} is broken: .* at byte {int(len(whole) * share):,}\."
    ):
        _read(path, compression)


@pytest.mark.parametrize(("compression", "compress"), COMPRESSORS)
def test_a_damaged_container_is_broken(tmp_path: Path, compression: str, compress) -> None:
    whole = bytearray(compress(TEXT))
    whole[3:40] = b"\xff" * 37
    path = tmp_path / f"part.{compression}"
    path.write_bytes(whole)
    with pytest.raises(BrokenFile, match="damaged"):
        _read(path, compression)


@pytest.mark.parametrize(("compression", "compress"), [COMPRESSORS[0], *COMPRESSORS[2:]])
def test_a_bomb_is_read_in_small_pieces(tmp_path: Path, compression: str, compress) -> None:
    path = tmp_path / f"bomb.{compression}"
    path.write_bytes(compress(b"\n" * (8 << 20)))
    assert max(len(chunk) for chunk in text_chunks(_shard(path, compression), str(path), hashlib.sha256())) <= 1 << 20


def test_an_xz_file_that_asks_for_too_much_memory_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "XZ_MEMORY", 1 << 20)
    path = tmp_path / "large.xz"
    path.write_bytes(lzma.compress(b"text", preset=6))
    with pytest.raises(BrokenFile, match="Memory usage limit"):
        _read(path, "xz")


@pytest.mark.parametrize(("compression", "compress"), [COMPRESSORS[0], *COMPRESSORS[2:]])
def test_padding_after_a_member_is_not_damage(tmp_path: Path, compression: str, compress) -> None:
    path = tmp_path / "padded"
    path.write_bytes(compress(b"text\n") + b"\0" * 512)
    assert _read(path, compression) == b"text\n"
