"""A .gguf whose header promises more than the file holds is refused before anything is made of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFEndian, GGUFReader, GGUFWriter

from frspec_cli.errors import FrspecError
from frspec_cli.models.gguf_header import check_gguf
from frspec_cli.subsets.formats import read_foreign

IDS = [5, 3, 9, 12]


def write(path: Path, *, order: GGUFEndian = GGUFEndian.LITTLE) -> Path:
    writer = GGUFWriter(path, "llama", endianess=order)
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.scale", 0.5)
    writer.add_bool("llama.flag", True)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "a", "Überall", ""])
    writer.add_array("qwen35.nextn.draft_vocab_ids", IDS)
    writer.add_tensor("d2t", np.array(IDS, dtype=np.int32))
    writer.add_tensor("two", np.zeros((3, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("order", [GGUFEndian.LITTLE, GGUFEndian.BIG])
def test_what_the_package_writes_passes(tmp_path: Path, order: GGUFEndian) -> None:
    path = write(tmp_path / "x.gguf", order=order)
    check_gguf(path)
    assert [int(each) for each in GGUFReader(path).fields["qwen35.nextn.draft_vocab_ids"].contents()] == IDS


@pytest.mark.parametrize("tenth", range(10))
def test_a_flipped_bit_is_read_or_refused_in_a_sentence(tmp_path: Path, tenth: int) -> None:
    path = write(tmp_path / "x.gguf")
    raw = path.read_bytes()
    for bit in range(tenth, 8 * len(raw), 10):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with contextlib.suppress(FrspecError):
            read_foreign(path)


def test_a_header_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf")
    raw = path.read_bytes()
    header = raw.index(b"two") + 3 + 4 + 16 + 4 + 8
    for length in range(1, header):
        path.write_bytes(raw[:length])
        with pytest.raises(FrspecError, match=r"x\.gguf is not a whole \.gguf: "):
            check_gguf(path)
    path.write_bytes(raw[:header])
    check_gguf(path)


@pytest.mark.parametrize(
    ("before", "number", "size", "reason"),
    [
        (b"qwen35.nextn.draft_vocab_ids", 2**40, 8, "its header promises 1,099,511,627,776 items in a list"),
        (b"qwen35.nextn.draft_vocab_ids", 2**20, 8, "its header runs past its end"),
        (b"tokenizer.ggml.tokens", 2**63, 8, "its header promises 9,223,372,036,854,775,808 items in a list"),
        (b"two", 10**6, 4, "a tensor in it has 1000000 dimensions"),
    ],
)
def test_no_memory_is_asked_for_what_the_file_does_not_hold(
    tmp_path: Path, before: bytes, number: int, size: int, reason: str
) -> None:
    path = write(tmp_path / "x.gguf")
    raw = bytearray(path.read_bytes())
    place = raw.index(before) + len(before) + (8 if size == 8 else 0)  # a list's two types come before its length
    raw[place : place + size] = number.to_bytes(size, "little")
    path.write_bytes(raw)
    with pytest.raises(FrspecError) as caught:
        read_foreign(path)
    assert caught.value.message == f"{path} is not a whole .gguf: {reason}."


def test_counts_of_entries_and_a_list_of_lists_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf")
    raw = path.read_bytes()
    for start in (8, 16):
        path.write_bytes(raw[:start] + (2**60).to_bytes(8, "little") + raw[start + 8 :])
        with pytest.raises(FrspecError, match="its header promises 1,152,921,504,606,846,976 "):
            check_gguf(path)
    place = raw.index(b"draft_vocab_ids") + len(b"draft_vocab_ids") + 4
    path.write_bytes(raw[:place] + (9).to_bytes(4, "little") + raw[place + 4 :])
    with pytest.raises(FrspecError, match="it holds a value of the unknown type 9"):
        check_gguf(path)
