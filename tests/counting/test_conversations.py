"""Conversations in tables: what is skipped is named with its line, judged by `max_bad`, and never stops the others."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from frspec_cli.counting.options import CountOptions
from frspec_cli.errors import FrspecError, UsageError, option
from frspec_cli.progress import Callbacks
from tests.counting.corpora import as_counter, count, plain_loop, write_jsonl
from tests.tokens.families import FAMILIES
from tests.tokens.test_rendering import build

REFUSED, REWRITTEN = "refused by the chat template", "rewritten by the chat template"
USER, FOX = {"role": "user", "content": "hens?"}, {"role": "assistant", "content": "the fox"}
ONLY = CountOptions(assistant_only=True)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("gemma"), FAMILIES["gemma-3"])


def _records(*conversations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"messages": turns} for turns in conversations]


def test_a_refused_conversation_is_skipped_with_its_line(tmp_path: Path, gemma: Path) -> None:
    single = _records(*[[USER, FOX]] * 200)
    alone = count([write_jsonl(tmp_path / "single.jsonl", single)], gemma, tmp_path / "single.parquet", options=ONLY)
    records = [*single[:100], *_records([USER, USER, FOX]), *single[100:], *_records([FOX, USER])]
    result = count([write_jsonl(tmp_path / "chat.jsonl", records)], gemma, tmp_path / "out.parquet", options=ONLY)
    metadata = result.table.metadata
    assert (metadata["lines"], metadata["documents"], metadata["skipped"]) == (202, 200, {REFUSED: 2})
    assert (metadata["skipped_turns"], metadata["partly_skipped"]) == ({REFUSED: 2}, 0)
    assert result.examples[0] == ("chat.jsonl", 101, REFUSED, "turn 3: roles must alternate")
    assert [example[1] for example in result.examples] == [101, 202]  # each once
    assert as_counter(result.table) == as_counter(alone.table)
    assert "skipped_turns" not in alone.table.metadata


def test_skipped_turns_are_bad_records_to_max_bad(tmp_path: Path, gemma: Path) -> None:
    records = _records(*[[USER, FOX]] * 8, [USER, USER, FOX], [USER, FOX, USER, USER, FOX])
    path = write_jsonl(tmp_path / "chat.jsonl", records)
    with pytest.raises(FrspecError) as caught:
        count([path], gemma, tmp_path / "out.parquet", options=ONLY)
    assert caught.value.message == (
        f"2 of 10 records (20.0%) are bad (1 {REFUSED}, 1 with a skipped turn), more than 1%; for instance chat.jsonl, "
        f"line 9: {REFUSED} (turn 3: roles must alternate)."
    )
    metadata = count([path], gemma, tmp_path / "out.parquet", options=ONLY, max_bad=0.2).table.metadata
    assert (metadata["documents"], metadata["skipped"]) == (9, {REFUSED: 1})
    assert (metadata["skipped_turns"], metadata["partly_skipped"]) == ({REFUSED: 2}, 1)


def test_limits_pass_over_skipped_conversations(tmp_path: Path, gemma: Path) -> None:
    records = _records(*[[USER, USER, FOX], [USER, FOX]] * 20)
    path = write_jsonl(tmp_path / "chat.jsonl", records)
    by_documents = CountOptions(assistant_only=True, limit_documents=5)
    table = count([path], gemma, tmp_path / "out.parquet", options=by_documents, max_bad=1).table
    assert table.metadata["documents"] == 5
    each = table.metadata["tokens"] // 5
    by_tokens = CountOptions(assistant_only=True, limit_tokens=2 * each + 1)
    table = count([path], gemma, tmp_path / "out.parquet", options=by_tokens, max_bad=1).table
    assert (table.metadata["documents"], table.metadata["tokens"]) == (3, 2 * each + 1)
    assert table.metadata["skipped"] == {REFUSED: 3}


def test_a_model_name_as_role_is_named_and_can_be_the_assistant(tmp_path: Path, gemma: Path, cli) -> None:
    records = _records(*[[USER, FOX | {"role": "laguna_s"}]] * 20)
    path = write_jsonl(tmp_path / "chat.jsonl", records)
    arguments = ("count-freq", path, "-t", gemma, "--assistant-only", "-o")
    code, _, err = cli(*arguments, tmp_path / "refused.parquet")
    assert code == 1
    assert "its roles are user, laguna_s; name the assistant's with --assistant-role" in " ".join(err.split())
    code, out, err = cli(*arguments, tmp_path / "out.parquet", "--assistant-role", "laguna_s", "--json")
    assert (code, json.loads(out)["documents"]) == (0, 20), err


def test_the_template_is_an_option(tmp_path: Path, gemma: Path, cli) -> None:
    path = write_jsonl(tmp_path / "chat.jsonl", _records(*[[USER, USER, FOX]] * 20))
    template = tmp_path / "own.jinja"
    template.write_text("{% for m in messages %}{{ prefix }}{{ m.content }}<end_of_turn>{% endfor %}", encoding="utf-8")
    arguments = ("count-freq", path, "-t", gemma, "--assistant-only", "-o", tmp_path / "out.parquet", "--json")
    code, out, err = cli(*arguments, "--chat-template", template, "--template-arg", "prefix=hen ")
    assert (code, json.loads(out)["documents"]) == (0, 20), err
    code, _, err = cli(*arguments, "--template-arg", "prefix")
    assert (code, "not of the form NAME=VALUE" in " ".join(err.split())) == (2, True)
    code, _, err = cli(*arguments, "--chat-template", tmp_path / "missing")
    assert (code, "--chat-template" in err, "cannot be read" in " ".join(err.split())) == (1, True, True)


def test_reasoning_is_counted_and_an_inserted_block_is_not(tmp_path: Path) -> None:
    qwen = build(tmp_path / "qwen", FAMILIES["qwen3"])
    turns = [[USER, FOX], [USER, FOX | {"reasoning_content": "a hen"}]]
    plain, thought = (
        as_counter(
            count(
                [write_jsonl(tmp_path / f"{index}.jsonl", _records(*[one] * 20))],
                qwen,
                tmp_path / "out.parquet",
                options=ONLY,
            ).table
        )
        for index, one in enumerate(turns)
    )
    tokens = json.loads((qwen / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    think = [token["id"] for token in tokens if "think" in token["content"]]
    assert [plain[index] for index in think] == [0, 0]
    assert [thought[index] for index in think] == [20, 20]
    assert thought.total() > plain.total()


def test_preformatted_texts_are_noticed_and_counted_as_tokens(tmp_path: Path, gemma: Path) -> None:
    text = "<start_of_turn>user\nhens?<end_of_turn>\n<start_of_turn>model\nthe fox<end_of_turn>\n"
    path = write_jsonl(tmp_path / "chat.jsonl", [{"text": text}] * 20)
    warned: list[str] = []
    callbacks = Callbacks(warn=warned.append)
    pieces = count([path], gemma, tmp_path / "out.parquet", callbacks=callbacks).table
    assert warned == [
        "texts hold the chat template's own tokens, such as <start_of_turn> (chat.jsonl, line 1), and each is counted as "
        f"ordinary text; {option('preformatted')} counts them as tokens."
    ]
    whole = count(
        [path], gemma, tmp_path / "out.parquet", options=CountOptions(preformatted=True), callbacks=callbacks
    ).table
    backend = Tokenizer.from_file(str(gemma / "tokenizer.json"))
    assert as_counter(whole) == Counter(backend.encode(text, add_special_tokens=False).ids * 20)
    assert whole.metadata["tokens"] < pieces.metadata["tokens"]
    assert len(warned) == 1
    with pytest.raises(UsageError, match="counts whole texts"):
        CountOptions(preformatted=True, assistant_only=True)


def test_a_text_file_is_split_on_a_string(tmp_path: Path, tokenizer: Path, cli) -> None:
    path = tmp_path / "a.txt"
    path.write_text("the fox<|endoftext|>a hen\n<|endoftext|>\n<|endoftext|>dog<|endoftext|>\n", encoding="utf-8")
    warned: list[str] = []
    count([path], tokenizer, tmp_path / "out.parquet", callbacks=Callbacks(warn=warned.append))
    assert warned == [
        f"a.txt holds <|endoftext|>, which is counted as ordinary text; {option('split_on')} '<|endoftext|>' makes a document "
        "of what is between."
    ]
    table = count([path], tokenizer, tmp_path / "out.parquet", options=CountOptions(split_on="<|endoftext|>")).table
    assert as_counter(table) == plain_loop(tokenizer, ["the fox", "a hen\n", "dog"])
    assert (table.metadata["documents"], table.metadata["skipped"]) == (3, {"empty": 1})
    arguments = ("count-freq", path, "-t", tokenizer, "-o", tmp_path / "cli.parquet", "--split-on", "<|endoftext|>")
    code, out, err = cli(*arguments, "--json")
    assert (code, json.loads(out)["documents"]) == (0, 3), err
    code, _, err = cli(*arguments, "--lines")
    assert (code, "give --lines or --split-on, not both" in " ".join(err.split())) == (2, True)
