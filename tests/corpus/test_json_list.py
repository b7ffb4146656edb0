"""A JSON list is read item by item, however its bytes are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frspec_cli.corpus.json_list import BadItem, first_text, items
from frspec_cli.corpus.streams import BrokenFile

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


def _cut(data: bytes, step: int) -> list[bytes]:
    return [data[start : start + step] for start in range(0, len(data), step)]


@given(st.lists(VALUES, max_size=8), st.integers(1, 40), st.booleans(), st.sampled_from([None, 1]))
def test_the_items_are_those_of_the_list(values: list, step: int, ascii_only: bool, indent: int | None) -> None:
    data = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    assert list(items(_cut(data, step), "a.json")) == values


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"text": "a"}, {"text": "b"', r"a\.json is broken: .* at byte 1[56]\."),
        (b'[{"text": "a"}', "ends too early at byte 14"),
        (b'[{"text": "a"} {"text": "b"}]', "expected , or ], found '{' at byte 15"),
        (b'[{"text": "a"}] trailing', "expected nothing, found 't' at byte 16"),
        (b"", "ends too early at byte 0"),
        (b'[{"text": "a"},]', "expected a value, found ']' at byte 15"),
        (b'[{"text": "a"},,{"text": "b"}]', "expected a value, found ',' at byte 15"),
        (b"[}]", "expected a value, found '}' at byte 1"),
    ],
)
def test_a_broken_list_is_named_with_its_byte(data: bytes, message: str) -> None:
    with pytest.raises(BrokenFile, match=message):
        list(items(_cut(data, 7), "a.json"))


BAD = {
    b'{"a": ' + b"9" * 5000 + b"}": "Exceeds the limit",
    b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "nested too deeply",
    b'{"a": tru, "b": "} ] \\\\\\" , "}': "Expecting value",
    b'{"a" 1, "b": [{}, "]"]}': "Expecting ':' delimiter",
    b'"\\x"': "Invalid",
    b"nul": "Expecting value",
    b'["a" "b"]': "Expecting ',' delimiter",
}


@pytest.mark.parametrize("step", [3, 1000])
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_item_spoils_only_itself(bad: bytes, step: int) -> None:
    before, item, after = items(_cut(b'[{"text": "a"}, ' + bad + b' , {"text": "b"}]', step), "a.json")
    assert (before, after) == ({"text": "a"}, {"text": "b"})
    assert isinstance(item, BadItem)
    assert BAD[bad] in item.problem


def test_white_space_is_passed_over_in_linear_time() -> None:
    """Quadratic, it would copy 8 GB for each stretch."""
    space = [b" " * 4096 + b"\n"] * 2000
    assert first_text(iter([*space, b'[{"text"'])) == b'[{"text"'
    assert list(items([*space, b"[", *space, b"1", *space, b',{"a":', *space, b"2}]", *space], "a.json")) == [
        1,
        {"a": 2},
    ]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n", b"  \t"])
def test_the_first_text_is_behind_mark_and_white_space(start: bytes) -> None:
    for step in (1, 2, 100):
        assert first_text(iter(_cut(start + b"[1, 2, 3]", step))).startswith(b"[")
        assert first_text(iter(_cut(start, step))) == b""
