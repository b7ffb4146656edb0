"""Every end-of-sequence id that a model's files declare is collected, in one place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from frspec_cli.models.eos import eos_ids
from frspec_cli.tokens.tokenizer import load_tokenizer
from tests.counting.corpora import byte_level


@pytest.mark.parametrize(
    ("generation", "config", "tokenizer_eos", "expected"),
    [
        ({}, {}, None, ()),
        ({"eos_token_id": [7, 3]}, {"eos_token_id": 3}, 1, (1, 3, 7)),
        ({"eos_token_id": None}, {"eos_token_id": None, "text_config": {"eos_token_id": 5}}, None, (5,)),
        ({}, {"eos_token_id": 0, "text_config": {"eos_token_id": 5}}, None, (0,)),
        ({}, {"text_config": None}, 2, (2,)),
    ],
)
def test_ids_from_all_declarations(generation: dict, config: dict, tokenizer_eos: int | None, expected: tuple) -> None:
    assert eos_ids(generation, config, tokenizer_eos) == expected


def test_a_tokenizer_takes_them_from_the_files_beside_it(tmp_path: Path) -> None:
    folder = byte_level(tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 4]}))
    (folder / "config.json").write_text(json.dumps({"text_config": {"eos_token_id": 11}}))
    assert load_tokenizer(str(folder)).eos_ids == (0, 4, 9, 11)
