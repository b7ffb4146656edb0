"""Text comes in whole characters and ends before a stop string, wherever tokens are cut."""

from __future__ import annotations

import pytest

from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.text import TextStream
from frspec_cli.models.target import Target, load_target
from tests.tiny import ScriptedDrafter


@pytest.fixture(scope="module")
def target(tiny_folder) -> Target:
    return load_target(str(tiny_folder), device="cpu", dtype="float64")


@pytest.mark.parametrize("text", ["the quick brown fox", "Überall grünt es 水は低き 🦊 done", "a\n\nb  c"])
def test_streamed_text_is_the_whole_text(target: Target, text: str) -> None:
    ids = target.processor(text)["input_ids"]
    stream = TextStream(target.processor)
    pieces = [stream.push([token])[1] for token in ids]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("stop", "shown"),
    [(["fox"], "the quick brown "), (["x j", "lazy"], "the quick brown fo"), (["zebra"], None), (["the"], "")],
)
def test_a_stop_string_is_held_back_and_left_out(target: Target, stop: list[str], shown: str | None) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    ids = target.processor(text)["input_ids"]
    stream, out = TextStream(target.processor, stop=stop), ""
    for token in ids:
        out += stream.push([token])[1]
        if stream.stopped:
            break
    out += stream.rest()
    assert out == (text if shown is None else shown)
    assert stream.stopped == (shown is not None)
    whole = TextStream(target.processor, stop=stop)
    kept, at_once = whole.push(ids)
    assert at_once + whole.rest() == out
    assert (kept == len(ids)) == (shown is None)


@pytest.mark.parametrize("place", range(1, 14))
def test_every_method_stops_at_the_same_token(target: Target, place: int) -> None:
    """The stop string is what the token at `place` adds, so it ends at every place inside an accepted run."""
    prompt = target.prompt_ids("the fox")
    plain = Engine(target).complete(prompt, max_new_tokens=20, ignore_eos=True).token_ids
    string = target.processor.decode(plain[place : place + 2])
    texts = []
    for drafter in (None, ScriptedDrafter(plain, wrong={9}, vocab=320, depth=5, beam=1, prompt=len(prompt))):
        text = TextStream(target.processor, prompt, stop=[string])
        generation = Engine(target, drafter).complete(prompt, max_new_tokens=20, ignore_eos=True, text=text)
        texts.append((generation.token_ids, generation.text))
    assert texts[0] == texts[1]
    ids, shown = texts[0]
    assert ids == plain[: len(ids)]
    if string and "\ufffd" not in string:
        assert len(ids) <= place + 2
        assert string not in shown
