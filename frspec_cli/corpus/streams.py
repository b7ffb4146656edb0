"""Bytes of a file: opened wherever it is, hashed as they pass, decompressed, cut into lines.

A container that ends early or is damaged raises `BrokenFile`, which names the file and the byte.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import zstandard

from frspec_cli.corpus.shards import Shard
from frspec_cli.errors import FrspecError, option

CHUNK_BYTES = 1 << 20
ZSTD_INPUT_BYTES = 16 << 10
"""Compressed bytes decoded at once: a zstd block of a few bytes may stand for 128 KB, and there is no output limit."""
XZ_MEMORY = 1 << 30
"""Bytes that unpacking .xz may take; `xz -9` asks for 65 MB."""


class BrokenFile(FrspecError):
    """A container (a compressed file, parquet, arrow, a JSON list) that cannot be read to its end."""

    def __init__(self, name: str, problem: str, byte: int) -> None:
        super().__init__(
            f"{name} is broken: {problem} at byte {byte:,}.",
            hint=f"Get the file again, or leave such files out with {option('skip_broken_files')}.",
        )


def open_binary(path: str) -> IO[bytes]:
    """A local path or an fsspec URL, opened for reading. Raises `FrspecError` if that fails."""
    try:
        if "://" not in path:
            return open(path, "rb")
        import fsspec

        return fsspec.open(path, "rb").open()
    except FileNotFoundError:
        raise FrspecError(f"there is no file {path}.") from None
    except (OSError, ValueError, ImportError) as error:
        raise FrspecError(f"{path} cannot be opened: {error}.") from error


def raw_chunks(file: IO[bytes], digest: Any, *, limit: int | None = None) -> Iterator[bytes]:
    """The file's next bytes (at most `limit`) in chunks. `digest` (a hashlib object, or None) is updated with them.

    Raises `FrspecError` if the system cannot read it.
    """
    left = limit
    while left is None or left > 0:
        try:
            chunk = file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
        except OSError as error:
            raise FrspecError(
                f"{getattr(file, 'name', 'a file')} cannot be read: {error.strerror or error}."
            ) from error
        if not chunk:
            return
        if left is not None:
            left -= len(chunk)
        if digest is not None:
            digest.update(chunk)
        yield chunk


def content_digest(shard: Shard) -> str:
    """Hex sha256 of the shard's bytes on disk: equal to the digest that `read_shard` has updated at its end."""
    digest = hashlib.sha256()
    for path in shard.paths:
        with open_binary(path) as file:
            byte_range = shard.stop is not None and not shard.compression
            file.seek(shard.start if byte_range else 0)
            for _ in raw_chunks(file, digest, limit=shard.size if byte_range else None):
                pass
    return digest.hexdigest()


def text_chunks(shard: Shard, path: str, digest: Any) -> Iterator[bytes]:
    """A whole file's bytes, decompressed, in chunks."""
    with open_binary(path) as file:
        yield from decompress(raw_chunks(file, digest), shard.compression, shard.file_name(path))


def piece_chunks(shard: Shard, digest: Any) -> Iterator[bytes]:
    """The bytes of the lines that begin in [start, stop) of a plain file; the last one may reach past `stop`.

    The digest covers exactly the bytes [start, stop), so pieces of equal files have equal digests.
    """
    with open_binary(shard.paths[0]) as file:
        skip = shard.start > 0
        if skip:
            # A line begins at `start` only if the byte before it is a newline.
            file.seek(shard.start - 1)
            skip = file.read(1) != b"\n"
        limit = None if shard.stop is None else shard.stop - shard.start
        last = b"\n"
        for chunk in raw_chunks(file, digest, limit=limit):
            last = chunk[-1:]
            if skip:
                newline = chunk.find(b"\n")
                skip = newline < 0
                chunk = b"" if skip else chunk[newline + 1 :]
            if chunk:
                yield chunk
        if not skip and last != b"\n":
            yield from _rest_of_line(file)


def _rest_of_line(file: IO[bytes]) -> Iterator[bytes]:
    for chunk in raw_chunks(file, None):
        newline = chunk.find(b"\n")
        yield chunk if newline < 0 else chunk[: newline + 1]
        if newline >= 0:
            return


def decompress(chunks: Iterable[bytes], compression: str, name: str) -> Iterator[bytes]:
    """The text of chunks compressed as a value of `COMPRESSIONS`, or "" for not at all. Raises `BrokenFile`, naming `name`."""
    return {"": _plain, "gz": _gunzip, "zst": _unzstd, "bz2": _unbz2, "xz": _unxz}[compression](chunks, name)


def _plain(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    return iter(chunks)


def _gunzip(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Every member of a gzip file; output in pieces of at most `CHUNK_BYTES`, whatever the ratio.

    By hand, since `gzip.GzipFile` reads 50 MB of JSON lines at 0.83 of the speed (median of 5).
    """
    position = 0
    member: Any = None
    try:
        for chunk in chunks:
            position += len(chunk)
            while chunk:
                if member is None:
                    member = zlib.decompressobj(wbits=31)
                piece = member.decompress(chunk, CHUNK_BYTES)
                if piece:
                    yield piece
                chunk = member.unconsumed_tail
                if member.eof:
                    # Zero bytes after the last member are padding (tar, tapes), as for gzip itself.
                    chunk = member.unused_data.lstrip(b"\0")
                    member = None
    except zlib.error as error:
        raise BrokenFile(name, f"damaged gzip data ({_reason(error)})", position) from None
    if member is not None or position == 0:
        raise BrokenFile(name, "the gzip data ends too early", position)


def _unzstd(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Every frame of a zstd file.

    By hand, since `zstandard`'s `stream_reader` takes a file that ends inside a frame for complete.
    """
    position = 0
    frame: Any = None
    try:
        for chunk in chunks:
            for start in range(0, len(chunk), ZSTD_INPUT_BYTES):
                piece = chunk[start : start + ZSTD_INPUT_BYTES]
                position += len(piece)
                while piece:
                    if frame is None:
                        # Frames made with --long need a window beyond the library's default of 128 MB.
                        frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                    text = frame.decompress(piece)
                    if text:
                        yield text
                    piece = frame.unused_data if frame.eof else b""
                    if frame.eof:
                        frame = None
    except zstandard.ZstdError as error:
        raise BrokenFile(name, f"damaged zstd data ({_reason(error)})", position) from None
    if frame is not None or position == 0:
        raise BrokenFile(name, "the zstd data ends too early", position)


def _unbz2(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    return _streams(chunks, name, "bzip2", bz2.BZ2Decompressor)


def _unxz(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    return _streams(chunks, name, "xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY))


def _streams(chunks: Iterable[bytes], name: str, kind: str, begin: Callable[[], Any]) -> Iterator[bytes]:
    """Every stream of a bzip2 or xz file; output in pieces of at most `CHUNK_BYTES`, whatever the ratio.

    By hand, since the file objects of `bz2` and `lzma` do not say where a file is damaged.
    """
    position, begun = 0, False
    stream: Any = None
    try:
        for chunk in chunks:
            position += len(chunk)
            while chunk or (stream is not None and not stream.needs_input):
                if stream is None:
                    chunk = chunk.lstrip(b"\0") if begun else chunk  # streams are padded with zero bytes
                    if not chunk:
                        break
                    stream, begun = begin(), True
                piece = stream.decompress(chunk, CHUNK_BYTES)
                chunk = b""
                if piece:
                    yield piece
                if stream.eof:
                    chunk, stream = stream.unused_data, None
    except (OSError, lzma.LZMAError) as error:
        raise BrokenFile(name, f"damaged {kind} data ({str(error).rstrip('.')})", position) from None
    if stream is not None or position == 0:
        raise BrokenFile(name, f"the {kind} data ends too early", position)


def _reason(error: Exception) -> str:
    return str(error).split(": ")[-1]


class _ChunkFile(io.RawIOBase):
    """Chunks as an unbuffered file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def as_file(chunks: Iterable[bytes]) -> io.BufferedReader:
    """Chunks as a file to be read from front to back."""
    return io.BufferedReader(_ChunkFile(chunks), 64 << 10)


def pieces(chunks: Iterable[bytes], separator: bytes, *, longest: int) -> Iterator[bytes | None]:
    """The texts between separators; None for one of more than `longest` bytes, which is never held whole.

    A separator at the very end begins no further text.
    """
    held, too_long = bytearray(), False
    for chunk in chunks:
        start = max(0, len(held) - len(separator) + 1)
        held += chunk
        while (end := held.find(separator, start)) >= 0:
            yield None if too_long or end > longest else bytes(held[:end])
            del held[: end + len(separator)]
            start, too_long = 0, False
        if len(held) > longest + len(separator):
            too_long = True
            del held[: len(held) - len(separator)]
    if held.strip() or too_long:
        yield None if too_long or len(held) > longest else bytes(held)


def lines(chunks: Iterable[bytes], *, longest: int) -> Iterator[bytes | None]:
    """Lines without their newline; None for a line of more than `longest` bytes, which is never held whole.

    The last line may lack its newline; a newline at the very end begins no further line.
    """
    file = as_file(chunks)
    while line := file.readline(longest + 1):
        if line.endswith(b"\n"):
            yield line[:-1]
        elif len(line) <= longest:
            yield line
        else:
            while line and not line.endswith(b"\n"):
                line = file.readline(longest + 1)
            yield None
