"""What the assistant said, under chat templates of ten shapes: the ids of a hand-written oracle, or a skipped turn."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from frspec_cli.corpus.conversations import conversation_document
from frspec_cli.corpus.documents import Document, Fields
from frspec_cli.tokens.chat import ChatEncoder, Turns, chat_encoder
from frspec_cli.tokens.encoder import ReferenceEncoder
from frspec_cli.tokens.template_options import TemplateOptions
from tests.counting.corpora import TRAINING_TEXT
from tests.tokens.families import FAMILIES, Family

CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln", "days": 3}'}}
USER = {"role": "user", "content": "count the hens"}
_COMMENTARY = " to=functions.f<|channel|>commentary json<|message|>"


def _calls(arguments: Any) -> dict[str, Any]:
    """A turn that only calls `f`."""
    return {"role": "assistant", "content": None, "tool_calls": [_call(arguments)]}


def _call(arguments: Any) -> dict[str, Any]:
    return {"function": {"name": "f", "arguments": arguments}}


def build(folder: Path, family: Family) -> Path:
    """A byte-level tokenizer with the family's special tokens and its template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.special])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": family.eos, "bos_token": "", "chat_template": family.template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@functools.cache
def _base() -> Path:
    import tempfile

    return Path(tempfile.mkdtemp())


@functools.cache
def chat(name: str, *, assistant_only: bool = True) -> ChatEncoder:
    """The encoder of a family."""
    folder = _base() / name
    if not folder.exists():
        build(folder, FAMILIES[name])
    return chat_encoder(str(folder / "tokenizer.json"), assistant_only=assistant_only)


def document(turns: list[dict[str, Any]], **fields: Any) -> Document:
    """The document of a record with these turns."""
    read = conversation_document({"messages": turns}, turns, 1, "here", Fields(**fields))
    assert isinstance(read, Document), read
    return read


def counted(encoder: ChatEncoder, turns: list[dict[str, Any]], **fields: Any) -> tuple[list[int], Turns]:
    """The ids of a conversation, and what became of its turns."""
    encoded, of = encoder.encode([document(turns, **fields)], ReferenceEncoder(encoder.tokenizer))
    return encoded.ids.tolist(), of[0]


def ids_of(encoder: ChatEncoder, before: str, said: str) -> list[int]:
    """The ids of the spoken characters of a rendering; of them alone if a token holds both kinds."""
    backend = Tokenizer.from_file(str(encoder.tokenizer.path))
    both = backend.encode(before + said, add_special_tokens=False)
    spoken = [index for (start, _), index in zip(both.offsets, both.ids, strict=True) if start >= len(before)]
    if any(start < len(before) < end for start, end in both.offsets):
        return backend.encode(said, add_special_tokens=False).ids
    return spoken


def expected(name: str, turns: list[dict[str, Any]]) -> list[list[int] | None]:
    """Of each assistant turn the oracle's ids, or None."""
    oracle = FAMILIES[name].oracle
    heads = [turns[: index + 1] for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    marked = [oracle(head) for head in heads]
    return [None if mark is None else ids_of(chat(name), *mark) for mark in marked]


@pytest.mark.parametrize(
    ("name", "turns", "said"),
    [
        (
            "qwen3",
            [USER, {"role": "assistant", "content": "4", "reasoning_content": "Let me think"}],
            "<think>\nLet me think\n</think>\n\n4<|im_end|>",
        ),
        ("qwen3", [USER, {"role": "assistant", "content": "4"}], "4<|im_end|>"),
        (
            "qwen3",
            [USER, {"role": "assistant", "content": "the fox"}, USER, {"role": "assistant", "content": "a hen"}],
            "the fox<|im_end|>a hen<|im_end|>",
        ),
        ("deepseek-r1", [USER, {"role": "assistant", "content": "<table>"}], "<table><|eos|>"),
        (
            "deepseek-r1",
            [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
            '<|calls|>function<|sep|>weather\n```json\n{"city": "Köln", "days": 3}\n```<|/calls|><|eos|>',
        ),
        (
            "qwen3",
            [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln", "days": 3}}\n</tool_call><|im_end|>',
        ),
        (
            "llama-3.1",
            [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}],
            '{"name": "weather", "parameters": {"city": "Köln", "days": 3}}<|eot_id|>',
        ),
        ("smollm3", [USER, {"role": "assistant", "content": "the fox"}], "the fox<|im_end|>"),
        ("qwen3.5", [USER, {"role": "assistant", "content": "a hen</think>4"}], "a hen\n</think>\n\n4<|im_end|>"),
        ("gpt-oss", [USER, _calls({"x": "\n<|return|>"})], f'{_COMMENTARY}{{"x": "\\n<|return|>"}}<|call|>'),
        (
            "qwen3",
            [USER, _calls('{"x":"\\u6c34"}')],
            '<tool_call>\n{"name": "f", "arguments": {"x":"\\u6c34"}}\n</tool_call><|im_end|>',
        ),
        ("gemma-3", [USER, {"role": "assistant", "content": "the fox"}], "the fox<end_of_turn>"),
    ],
)
def test_what_the_assistant_said(name: str, turns: list[dict[str, Any]], said: str) -> None:
    encoder = chat(name)
    backend = Tokenizer.from_file(str(encoder.tokenizer.path))
    ids, of = counted(encoder, turns)
    assert backend.decode(ids, skip_special_tokens=False) == said
    assert (of.counted, of.skipped) == (sum(turn["role"] == "assistant" for turn in turns), [])


@pytest.mark.parametrize(
    ("name", "turns", "detail"),
    [
        ("gemma-3", [USER, USER, {"role": "assistant", "content": "x"}], "turn 3: roles must alternate"),
        ("gemma-3", [{"role": "assistant", "content": "x"}, USER], "turn 1: "),
        (
            "deepseek-r1",
            [USER, {"role": "assistant", "content": "banana", "reasoning_content": "a"}],
            "turn 2: its reasoning is not in the rendering",
        ),
        (
            "qwen3",  # whose template takes the end of the block away; the call holds the same text
            [USER, {"role": "assistant", "content": "</think> a hen", "tool_calls": [_call({"x": "</think> a hen"})]}],
            "turn 2: its content is not in the rendering",
        ),
        (
            "phi-4",
            [USER, {"role": "assistant", "content": "weather", "tool_calls": [CALL]}],
            "turn 2: its tool call weather is not in the rendering",
        ),
        (
            "mistral",
            [{"role": "system", "content": "s"}, USER, {"role": "assistant", "content": "x"}],
            "turn 3: the prompt for it is rendered differently with it",
        ),
    ],
)
def test_a_turn_that_cannot_be_told_apart_is_skipped(name: str, turns: list[dict[str, Any]], detail: str) -> None:
    ids, of = counted(chat(name), turns)
    assert (ids, of.counted, of.all_skipped) == ([], 0, True)
    [(_, what)] = of.skipped
    assert what.startswith(detail)


def test_the_other_turns_of_a_conversation_count() -> None:
    turns = [USER, {"role": "assistant", "content": "the fox"}, USER, USER, {"role": "assistant", "content": "a hen"}]
    ids, of = counted(chat("gemma-3"), turns)
    assert [ids, None] == expected("gemma-3", turns)
    assert (of.counted, len(of.skipped), of.all_skipped) == (1, 1, False)


def test_reasoning_and_tool_calls_are_text_without_assistant_only() -> None:
    encoder = chat("qwen3", assistant_only=False)
    turn = {"role": "assistant", "content": None, "reasoning": "the fox", "tool_calls": [CALL]}
    ids, _ = counted(encoder, [USER, turn])
    parts = ["count the hens", "the fox", "weather", CALL["function"]["arguments"]]  # type: ignore[index]
    plain = [token for part in encoder.tokenizer.encode_batch(parts) for token in part.tolist()]
    assert ids == [*plain, encoder.tokenizer.id_of("<|im_end|>")]


def test_a_template_of_the_users_and_its_arguments(tmp_path: Path) -> None:
    folder = build(tmp_path, FAMILIES["smollm3"])
    turns = [USER, {"role": "assistant", "content": "the fox"}]
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def prompt_of(template: TemplateOptions) -> tuple[str, str]:
        encoder = chat_encoder(str(folder / "tokenizer.json"), assistant_only=True, template=template)
        assert encoder.renderer is not None
        before = encoder.renderer.turn(document(turns).messages or (), 1).before
        return before.split("hens")[-1], backend.decode(counted(encoder, turns)[0], skip_special_tokens=False)

    assistant = "<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_of(TemplateOptions()) == (assistant, "the fox<|im_end|>")
    off = TemplateOptions(arguments={"enable_thinking": False})
    assert prompt_of(off) == (assistant + "<think>\n\n</think>\n", "the fox<|im_end|>")
    own = TemplateOptions(FAMILIES["phi-4"].template)
    assert prompt_of(own) == ("<|im_end|><|im_start|>assistant<|im_sep|>", "the fox<|im_end|>")


@pytest.mark.parametrize("value", [None, True, 3, "é\n'\"", [1, {"a": None}]])
def test_arguments_reach_the_template_as_they_are(value: Any) -> None:
    [source] = TemplateOptions(arguments={"x": value}).apply(["\n{{ x | tojson }}"])
    from frspec_cli.tokens.template import ChatTemplate

    assert ChatTemplate(source).render([], generate=False) == "\n" + json.dumps(value, ensure_ascii=False)


# What a conversation may hold; the oddities are strings that templates look for or that end turns.
_WORDS = ["the fox", " a hen", "dog\n", "\n", "über", "水", "1,234", "def f():", "assistant", ""]
_ODD = ["<think>", "</think>", "<|im_end|>", "<|eot_id|>", "<|eos|>", "</s>", "<end_of_turn>", "<|return|>", "<|end|>"]


def _text(words: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(words), max_size=4).map("".join)


_ANY_TEXT = st.one_of(_text(_WORDS), _text(_WORDS + _ODD))


@st.composite
def _conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    if draw(st.booleans()):
        turns.append({"role": "system", "content": draw(_text(_WORDS))})
    for number in range(draw(st.integers(1, 6))):
        odd = draw(st.integers(0, 9)) == 0
        assistant = (number % 2 == 1) != odd
        if not assistant:
            turns.append({"role": "user", "content": draw(_ANY_TEXT)})
            continue
        turn: dict[str, Any] = {"role": "assistant", "content": draw(_ANY_TEXT)}
        if draw(st.integers(0, 2)) == 0:
            turn["reasoning_content"] = draw(_ANY_TEXT).strip() or "a"
        turns.append(turn)
        if draw(st.integers(0, 3)) == 0:
            arguments = {"city": draw(_ANY_TEXT), "days": 3}
            as_text = draw(st.booleans())
            call = {
                "name": "weather",
                "arguments": json.dumps(arguments, ensure_ascii=draw(st.booleans())) if as_text else arguments,
            }
            turn["tool_calls"] = [{"type": "function", "function": call}]
            turn["content"] = draw(st.sampled_from([None, turn["content"]]))
            turns.append({"role": "tool", "content": draw(_text(_WORDS))})
    return turns


def _is_odd(turns: list[dict[str, Any]]) -> bool:
    text = json.dumps(turns, ensure_ascii=False)
    return any(odd in text for odd in _ODD)


def _check(name: str, turns: list[dict[str, Any]]) -> None:
    read = conversation_document({}, turns, 1, "here", Fields())
    if not isinstance(read, Document):
        return  # nothing was said
    marked = expected(name, turns)
    of_turns = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    ids, of = counted(chat(name), turns)
    skipped = {int(detail.split(":")[0].removeprefix("turn ")) - 1 for _, detail in of.skipped}
    assert of.counted + len(of.skipped) == len(of_turns)
    kept = [mark for index, mark in zip(of_turns, marked, strict=True) if index not in skipped]
    assert None not in kept, (turns, of.skipped)
    assert ids == [token for mark in kept for token in mark or []], turns
    if not _is_odd(turns):
        assert len(kept) == sum(mark is not None for mark in marked), (turns, of.skipped)


_SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=100, **_SETTINGS)  # type: ignore[arg-type]
@given(st.sampled_from(sorted(FAMILIES)), _conversations())
def test_generated_conversations_count_as_the_oracle_marks(name: str, turns: list[dict[str, Any]]) -> None:
    _check(name, turns)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_two_thousand_generated_conversations(name: str) -> None:
    @settings(max_examples=2000, **_SETTINGS)  # type: ignore[arg-type]
    @given(_conversations())
    def check(turns: list[dict[str, Any]]) -> None:
        _check(name, turns)

    check()
