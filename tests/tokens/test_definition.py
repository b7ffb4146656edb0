"""A tokenizer.json read without building the tokenizer holds the tokens and ids that the tokenizers library gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from frspec_cli.errors import FrspecError
from frspec_cli.tokens.tokenizer import load_tokenizer


def _added(index: int, content: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, "special": True, **plain}


def _write(path: Path, model: dict[str, Any], added: list[dict[str, Any]], *, last: str = "model") -> str:
    parts = {"version": "1.0", "added_tokens": added, "decoder": {"type": "Fuse"}, "model": {"type": "BPE", **model}}
    parts |= {last: parts.pop(last)}
    path.write_text(json.dumps(parts, separators=(",", ":")))
    return str(path)


VOCAB = {"a": 0, "b": 1, "ab": 2}
CASES = {
    "plain": ({"vocab": VOCAB, "merges": ["a b"]}, [_added(3, "<s>"), _added(4, "</s>")]),
    "merges is a token": ({"vocab": {"merges": 0, "a": 1, '"merges":': 2}, "merges": []}, [_added(3, "<s>")]),
    "an added token of the vocabulary": ({"vocab": VOCAB, "merges": []}, [_added(1, "b"), _added(3, "<s>")]),
    "another id than the vocabulary has": ({"vocab": VOCAB, "merges": []}, [_added(2, "b"), _added(3, "<s>")]),
    "a hole that the library closes": ({"vocab": VOCAB, "merges": []}, [_added(9, "<s>"), _added(5, "</s>")]),
    "an added token twice": ({"vocab": VOCAB, "merges": []}, [_added(3, "<s>"), _added(4, "<s>")]),
    "a hole in the vocabulary": ({"vocab": {"a": 0, "b": 7}, "merges": []}, [_added(2, "<s>")]),
    "ids out of order": ({"vocab": {"b": 1, "a": 0}, "merges": []}, []),
    "no object": ({"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["b", -2.0]]}, [_added(2, "<s>")]),
}


@pytest.mark.parametrize("last", ["model", "decoder", "added_tokens"])
@pytest.mark.parametrize("case", CASES)
def test_the_vocabulary_is_the_librarys(case: str, last: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "tokenizer.json", *CASES[case], last=last)
    library, loaded = tokenizers.Tokenizer.from_file(path), load_tokenizer(path)
    expected = sorted((index, token) for token, index in library.get_vocab(with_added_tokens=True).items())
    assert list(loaded.vocabulary.items()) == expected
    assert loaded.added == {index: token.content for index, token in library.get_added_tokens_decoder().items()}
    assert all(loaded.id_of(token) == library.token_to_id(token) for token in [*loaded.vocabulary.values(), "none"])


def test_the_library_is_not_asked_where_the_file_says_it_all(tmp_path: Path) -> None:
    loaded = load_tokenizer(_write(tmp_path / "tokenizer.json", *CASES["plain"]))
    assert (loaded.size, loaded.highest_id) == (5, 4)
    assert len(loaded.fingerprint) == 64
    assert "backend" not in vars(loaded)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": 3}', '{"model": {"vocab": {}}, "added_tokens": [1]}'])
def test_a_file_that_is_not_a_tokenizer_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(FrspecError, match=r"is not a tokenizer\.json"):
        load_tokenizer(str(path))


@pytest.mark.parametrize("index", [2**31 - 1, 2**40, -1, "3", 3.0, True, None])
@pytest.mark.parametrize("where", ["vocabulary", "added"])
def test_an_id_that_no_tokenizer_has_is_refused_before_the_library_is_built(
    index: Any, where: str, tmp_path: Path
) -> None:
    """The library takes memory for every id up to the highest, and aborts if it gets none."""
    vocab = VOCAB | {"c": index if where == "vocabulary" else 3}
    path = _write(tmp_path / "tokenizer.json", {"vocab": vocab, "merges": []}, [_added(index, "<s>")])
    with pytest.raises(FrspecError, match=f"gives a token the id {index!r}, where a whole number from 0 to 10,000,000"):
        load_tokenizer(path)
    fast = pytest.importorskip("frspec_cli.tokens.fast")
    pytest.importorskip("gigatoken")
    with pytest.raises(FrspecError, match="gives a token the id"):
        fast.FastEncoder(path)


def test_an_added_token_without_an_id_is_refused(tmp_path: Path) -> None:
    added = {name: value for name, value in _added(3, "<s>").items() if name != "id"}
    with pytest.raises(FrspecError, match=r"is not a tokenizer\.json"):
        load_tokenizer(_write(tmp_path / "tokenizer.json", {"vocab": VOCAB, "merges": []}, [added]))


def test_a_library_that_panics_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As pyo3 names what a Rust panic becomes."""

    def panic(path: str) -> None:
        raise PanicException("capacity overflow")

    loaded = load_tokenizer(_write(tmp_path / "tokenizer.json", *CASES["plain"]))
    monkeypatch.setattr(tokenizers, "Tokenizer", type("Tokenizer", (), {"from_file": staticmethod(panic)}))
    with pytest.raises(FrspecError, match=r"the tokenizers library cannot read .*: capacity overflow"):
        _ = loaded.backend


@pytest.mark.parametrize("value", [0.5, 7, True, ["x"], [{}], {"x": 1}, [{"name": "a", "template": 5}]])
def test_a_chat_template_that_is_none_is_refused_with_file_and_field(value: Any, tmp_path: Path) -> None:
    loaded = load_tokenizer(_write(tmp_path / "tokenizer.json", *CASES["plain"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value, "eos_token": value}))
    with pytest.raises(
        FrspecError, match=r"tokenizer_config\.json: chat_template is .*; expected a template or a list"
    ):
        _ = loaded.chat_templates
    assert loaded.eos_ids == ()


def test_a_chat_template_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    loaded = load_tokenizer(_write(tmp_path / "tokenizer.json", *CASES["plain"]))
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ '\xed\xa0\x80' }}")
    with pytest.raises(FrspecError, match=r"chat_template\.jinja cannot be read: 'utf-8' codec"):
        _ = loaded.chat_templates
