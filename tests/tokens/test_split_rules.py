"""What decides how a tokenizer splits text is hashed part by part; what changes no id is not in it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from frspec_cli.tokens.split_rules import differing_parts, split_rules
from frspec_cli.tokens.tokenizer import load_tokenizer
from tests.counting.corpora import byte_level


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A byte-level tokenizer whose pre-tokenizer is spelled as Llama-3's: digits in threes, then bytes."""
    folder = byte_level(tmp_path_factory.mktemp("tokenizer"))
    parsed = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}| ?\p{L}+"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    parsed["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    parsed["normalizer"] = None
    return parsed


def _record(parsed: dict[str, Any], fingerprint: str = "v") -> dict[str, Any]:
    return {"fingerprint": fingerprint, "split_rules": split_rules(parsed)}


def _digits(parsed: dict[str, Any]) -> None:
    parsed["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}| ?\p{L}+"


def _plain_token(parsed: dict[str, Any]) -> None:
    parsed["added_tokens"][1]["special"] = False


CHANGES = {
    "pre_tokenizer": _digits,
    "normalizer": lambda parsed: parsed.update(normalizer={"type": "NFC"}),
    "merges": lambda parsed: parsed["model"]["merges"].reverse(),
    "model": lambda parsed: parsed["model"].update(ignore_merges=True),
    "special_tokens": lambda parsed: parsed["added_tokens"][0].update(lstrip=True),
    "added_tokens, special_tokens": _plain_token,
}


@pytest.mark.parametrize("parts", CHANGES)
def test_a_change_is_named_by_its_part(definition: dict[str, Any], parts: str) -> None:
    changed = copy.deepcopy(definition)
    CHANGES[parts](changed)
    assert ", ".join(differing_parts(_record(definition), _record(changed))) == parts


def test_spellings_that_change_no_id_are_equal(definition: dict[str, Any]) -> None:
    other = copy.deepcopy(definition)
    other["model"]["merges"] = [" ".join(merge) for merge in other["model"]["merges"]]
    other["model"] |= {"dropout": None, "unk_token": None, "continuing_subword_prefix": ""}
    other["normalizer"] = {"type": "Sequence", "normalizers": []}
    steps = other["pre_tokenizer"]["pretokenizers"]
    steps[0].pop("invert")
    steps[1]["trim_offsets"] = False
    other["added_tokens"].reverse()
    other |= {"post_processor": None, "truncation": None, "version": "2.0"}
    assert split_rules(other) == split_rules(definition)
    assert differing_parts(_record(definition), _record(other)) == []


def test_what_the_library_writes_again_is_equal(tmp_path: Path, definition: dict[str, Any]) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).to_str()
    assert split_rules(json.loads(again)) == split_rules(definition)


def test_scores_of_a_unigram_model_count() -> None:
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.0], ["b", -2.0]]}
    other = {**model, "vocab": [["a", -1.0], ["b", -2.5]]}
    assert differing_parts(_record({"model": model}), _record({"model": other})) == ["scores"]


def test_special_tokens_of_another_vocabulary_and_old_files_are_not_compared(definition: dict[str, Any]) -> None:
    changed = copy.deepcopy(definition)
    changed["added_tokens"].append({"id": 9_999, "content": "<|image|>", "special": True})
    assert differing_parts(_record(definition), _record(changed, "w")) == []
    assert differing_parts(_record(definition), _record(changed)) == ["special_tokens"]
    assert differing_parts({"fingerprint": "v"}, _record(changed)) == []


def test_the_record_of_a_tokenizer_holds_them(tmp_path: Path, definition: dict[str, Any]) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    record = load_tokenizer(str(tmp_path)).record()
    assert record["split_rules"] == split_rules(definition)
    assert {len(digest) for digest in record["split_rules"].values()} == {64}
