"""Prompts have ids of their own: what is drawn for a prompt, and which answers are compared, goes by them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from frspec_cli.answers.batched_decode import uniforms
from frspec_cli.answers.prompts import Prompt, read_prompts
from frspec_cli.errors import FrspecError


def _write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_prompts_of_all_shapes(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "prompts.jsonl",
        {"prompt": "one", "id": "a", "source": "web"},
        {"turns": ["two", "and then?"], "question_id": 81, "category": "qa"},
        {"text": "three"},
    )
    assert read_prompts(path, texts=True) == [
        Prompt("one", "a", "web"),
        Prompt("two", "81", "qa"),
        Prompt("three", "3", plain=True),
    ]
    with pytest.raises(FrspecError, match=r"prompts\.jsonl, line 3 is not a prompt"):
        read_prompts(path)
    assert len(read_prompts(path, limit=2)) == 2


def test_a_missing_id_is_the_line_number_and_never_none(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    records = ({"prompt": "x", "id": None}, {"prompt": "x"}, {"prompt": "x", "question_id": None, "id": ""})
    path.write_text("\n\n".join(json.dumps(record) for record in records))
    ids = [prompt.id for prompt in read_prompts(path)]
    assert ids == ["1", "3", "5"]
    assert len({tuple(uniforms(0, name, 4).tolist()) for name in ids}) == 3


@pytest.mark.parametrize(
    ("records", "lines"),
    [
        ([{"id": "a"}, {"id": "b"}, {"id": "a"}], "lines 1 and 3: two prompts have the id 'a'"),
        ([{"id": 7}, {"question_id": "7"}], "lines 1 and 2: two prompts have the id '7'"),
        ([{"id": 2}, {}], "lines 1 and 2: two prompts have the id '2'"),
    ],
)
def test_two_prompts_of_one_id_are_refused(tmp_path: Path, records: list[dict], lines: str) -> None:
    path = _write(tmp_path / "prompts.jsonl", *({"prompt": "x"} | record for record in records))
    with pytest.raises(FrspecError, match=lines) as caught:
        read_prompts(path)
    assert "by its line number" in caught.value.hint
    assert read_prompts(path, limit=1)


def test_an_id_is_a_string_or_a_number(tmp_path: Path) -> None:
    path = _write(tmp_path / "prompts.jsonl", {"prompt": "x", "id": ["a"]})
    with pytest.raises(FrspecError, match="line 1 is not a prompt: its id is a list"):
        read_prompts(path)


SYSTEM, HENS, FOX = (
    {"role": role, "content": text} for role, text in (("system", "short"), ("user", "hens?"), ("assistant", "the fox"))
)


def test_a_conversation_is_answered_at_its_last_turn_or_at_each(tmp_path: Path) -> None:
    turns = [SYSTEM, HENS, FOX, HENS, FOX]
    path = _write(tmp_path / "a.jsonl", {"messages": turns, "id": "a"}, {"conversations": [HENS]}, {"prompt": [HENS]})
    last = read_prompts(path)
    assert [(prompt.id, prompt.text, len(prompt.messages)) for prompt in last] == [
        ("a", "hens?", 4),
        ("2", "hens?", 1),
        ("3", "hens?", 1),
    ]
    assert [(message.role, message.content) for message in last[0].messages][:2] == [
        ("system", "short"),
        ("user", "hens?"),
    ]
    each = read_prompts(path, all_turns=True)
    assert [(prompt.id, len(prompt.messages)) for prompt in each] == [("a:1", 2), ("a:2", 4), ("2", 1), ("3", 1)]
    assert [prompt.id for prompt in read_prompts(path, all_turns=True, limit=1)] == ["a:1"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": [SYSTEM, FOX]}, "line 1 is not a prompt: no turn of the conversation is to be answered"),
        ({"messages": [{"role": 3}]}, "line 1 is not a prompt: turn 1 has no role and text"),
        ({"messages": {"role": ["user"], "content": []}}, "line 1 is not a prompt: its columns have different lengths"),
    ],
)
def test_a_conversation_without_a_question_is_refused(tmp_path: Path, record: dict, message: str) -> None:
    with pytest.raises(FrspecError, match=message):
        read_prompts(_write(tmp_path / "a.jsonl", record))


def test_suites_are_read_as_they_are_published(tmp_path) -> None:
    """HumanEval's and GSM8K's records name their suite by their form; a conversation beside a `question` stays one."""
    file = tmp_path / "suite.jsonl"
    human = {
        "task_id": "HumanEval/0",
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "canonical_solution": "",
        "test": "",
    }
    records = [
        human,
        {"question": "How many?", "answer": "2 + 2 = 4\n#### 4"},
        {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]},
        {"question": "a label", "messages": [{"role": "user", "content": "Hen?"}]},
        {"question": "Why?", "source": "mine"},
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [(each.id, each.category, each.text) for each in read_prompts(file)] == [
        ("HumanEval/0", "humaneval", "def f(x):\n"),
        ("2", "gsm8k", "How many?"),
        ("81", "writing", "Write."),
        ("4", "", "Hen?"),
        ("5", "mine", "Why?"),
    ]
