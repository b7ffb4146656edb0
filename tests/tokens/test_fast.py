"""The fast encoder gives the reference's ids or is not used."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from frspec_cli.tokens.encoder import Encoded, ReferenceEncoder
from frspec_cli.tokens.encoder_check import EncodersDiffer, check, compare, hostile_texts
from frspec_cli.tokens.fast import FastEncoder, FastEncoderRefuses
from frspec_cli.tokens.tokenizer import load_tokenizer
from tests.counting.corpora import byte_level, sentence_piece, texts

pytest.importorskip("gigatoken")


@pytest.mark.parametrize("make", [byte_level, lambda folder: byte_level(folder, all_bytes=False), sentence_piece])
def test_the_ids_are_the_references(tmp_path: Path, make) -> None:
    tokenizer = load_tokenizer(str(make(tmp_path)))
    fast = FastEncoder(str(tokenizer.path))
    assert fast.rows == tokenizer.highest_id + 1
    documents = [*hostile_texts(tokenizer), *texts(200)]
    assert compare(fast, tokenizer, documents).documents == len(documents)


def test_bytes_that_the_vocabulary_lacks_go_to_the_reference(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(byte_level(tmp_path, all_bytes=False)))
    fast = FastEncoder(str(tokenizer.path))
    assert fast.first_stand_in == tokenizer.highest_id + 1
    documents = ["the fox", "the \x04 fox", "the hen", "\x04", ""]
    encoded = fast.encode(documents, [text.encode() for text in documents])
    assert [encoded.of(index).tolist() for index in range(5)] == [
        ids.tolist() for ids in tokenizer.encode_batch(documents)
    ]
    assert encoded.ids.max() <= tokenizer.highest_id


def test_special_strings_are_ordinary_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(byte_level(tmp_path)))
    text = "a <|end|> b<|turn|>"
    ids = FastEncoder(str(tokenizer.path)).encode([text], [text.encode()]).ids
    assert not set(tokenizer.added) & set(ids.tolist())


def test_the_word_cache_is_dropped_now_and_then_and_no_id_changes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("frspec_cli.tokens.fast.RENEW_BYTES", 100)
    tokenizer = load_tokenizer(str(byte_level(tmp_path, all_bytes=False)))
    fast = FastEncoder(str(tokenizer.path))
    used = [fast._tokenizer]
    for text in texts(30):
        assert fast.encode([text], [text.encode()]).ids.tolist() == tokenizer.encode_batch([text])[0].tolist()
        if fast._tokenizer is not used[-1]:
            used.append(fast._tokenizer)
    assert len(used) > 2


def test_nothing_is_encoded_to_nothing(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(byte_level(tmp_path)))
    for encoder in (FastEncoder(str(tokenizer.path)), ReferenceEncoder(tokenizer)):
        for documents in ([], ["", ""]):
            encoded = encoder.encode(documents, [text.encode() for text in documents])
            assert (len(encoded.ids), encoded.offsets.tolist()) == (0, [0] * (len(documents) + 1))


@pytest.mark.parametrize(
    "definition",
    [{}, {"model": {"vocab": [["a", -1.0]]}}, {"model": {"type": "WordLevel", "vocab": {"a": 0}}, "added_tokens": []}],
)
def test_other_kinds_are_refused_in_one_sentence(tmp_path: Path, definition: dict) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition))
    with pytest.raises(FastEncoderRefuses, match="the fast encoder") as caught:
        FastEncoder(str(path))
    assert "\n" not in caught.value.message


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with pytest.raises(FastEncoderRefuses, match="not installed") as caught:
        FastEncoder(str(byte_level(tmp_path) / "tokenizer.json"))
    assert "frspec[fast]" in caught.value.hint


def test_a_difference_is_caught_and_named(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(byte_level(tmp_path)))

    class Lying:
        name, version = "fast", "0"

        def encode(self, texts: list[str], data: list[bytes]) -> Encoded:
            parts = tokenizer.encode_batch(texts)
            parts[1] = parts[1][:-1]
            return Encoded(np.concatenate(parts), np.cumsum([0, *map(len, parts)]))

    with pytest.raises(EncodersDiffer, match="the fast encoder differs from the reference on 'two words', from id"):
        compare(Lying(), tokenizer, ["one", "two words"])
    with pytest.raises(EncodersDiffer, match="from id 1 on"):
        check("x", np.array([1, 2]), np.array([1, 3]))
    check("x", np.array([], dtype=np.uint32), np.array([], dtype=np.int32))
