"""JSON that is nested too deeply is refused wherever it is read, not where something later walks over it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from frspec_cli import bounded_json, schema, storage
from frspec_cli.corpus.conversations import as_turns
from frspec_cli.corpus.documents import Reason, Skipped
from frspec_cli.corpus.json_list import BadItem, items
from frspec_cli.corpus.jsonl import first_json, read_jsonl
from frspec_cli.corpus.records import parse_json
from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats import read_foreign
from frspec_cli.tokens.template_options import template_options

LEVELS = (bounded_json.MOST_LEVELS + 1, 900, 1_000, 100_000)
"""The second is within the limit of Python's reader, the third within that of `orjson`, the last in neither's."""


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def test_as_many_levels_as_are_allowed_are_read_and_brackets_in_text_are_none() -> None:
    value = bounded_json.loads(nested(bounded_json.MOST_LEVELS))
    assert json.dumps(value) == nested(bounded_json.MOST_LEVELS)
    assert bounded_json.loads('{"a": {"b": "' + "[" * 5000 + '"}}') == {"a": {"b": "[" * 5000}}
    assert bounded_json.loads("[" + "[]," * 5000 + "{}]") == [[]] * 5000 + [{}]


@pytest.mark.parametrize("levels", LEVELS)
def test_deeper_values_are_refused_by_every_reader(tmp_path: Path, levels: int) -> None:
    deep, path = nested(levels), tmp_path / "x.json"
    for text in (deep, deep.encode(), deep.replace("[", '{"a":').replace("]", "}").replace(":}", ":1}")):
        with pytest.raises(bounded_json.TooDeep, match="nested too deeply"):
            bounded_json.loads(text)
    path.write_text(deep)
    for read in (storage.read_json, schema.read_json, schema.read_object):
        with pytest.raises(FrspecError, match=r"x\.json cannot be read as JSON: nested too deeply"):
            read(path)
    with pytest.raises(FrspecError, match=r"x: its content is nested too deeply"):
        schema.parse_json(deep, "x")
    with pytest.raises(FrspecError, match=r"x\.json is not valid JSON: nested too deeply"):
        read_foreign(path)
    assert first_json(path) is None
    with pytest.raises(FrspecError, match=r"x\.json, line 1 is not valid JSON: "):
        list(read_jsonl(path))
    assert template_options(None, [f"a={deep}"]).arguments == {"a": deep}


@pytest.mark.parametrize("levels", LEVELS)
def test_a_record_that_is_too_deep_is_skipped_and_the_others_are_read(levels: int) -> None:
    deep = nested(levels)
    record = parse_json(f'{{"text": "a", "meta": {deep}}}'.encode(), 7)
    assert record == Skipped(7, Reason.BROKEN_JSON, "nested too deeply")
    assert list(items([f'[1, {deep}, {{"text": "b"}}]'.encode()], "x")) == [
        1,
        BadItem("nested too deeply"),
        {"text": "b"},
    ]
    turns = as_turns(f'[{{"role": "user", "content": "a", "meta": {deep}}}]')
    assert turns == Skipped(0, Reason.BAD_CONVERSATION, "a string of turns that is not valid JSON")


@pytest.mark.parametrize("levels", LEVELS)
def test_arguments_of_a_tool_call_that_are_too_deep_are_text(levels: int) -> None:
    from frspec_cli.tokens.rendering import _as_object

    assert _as_object(nested(levels)) == nested(levels)
    assert _as_object('{"a": [1]}') == {"a": [1]}
