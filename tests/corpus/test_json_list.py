"""A JSON list is read item by item, however its bytes are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frspec_cli.corpus.json_list import items
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
    ],
)
def test_a_broken_list_is_named_with_its_byte(data: bytes, message: str) -> None:
    with pytest.raises(BrokenFile, match=message):
        list(items(_cut(data, 7), "a.json"))
