"""Figures of a replay against counts made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from frspec_cli.answers.records import Answer
from frspec_cli.replay.cycles import Replayed
from frspec_cli.replay.groups import POSITIONS, by_position, group_figures, with_languages
from frspec_cli.replay.report import ReplayedAnswer, after_end, depths, figures, kept
from frspec_cli.replay.suite import Text
from frspec_cli.tokens.tokenizer import load_tokenizer


def answer(response, *, prompt=(7, 8), finished=True, **labels):
    return Answer(np.array([*prompt, *response]), len(prompt), finished, True, **labels)


def replayed(accepted, misses, *, roots=None, after=None, tokens=0, **labels):
    steps = np.cumsum([0, *(count + 1 for count in accepted)])[:-1].tolist()
    cycles = Replayed(roots or steps, list(accepted), list(misses))
    return ReplayedAnswer("arm", answer(range(40), **labels), cycles, after, tokens)


def test_each_depth_counts_the_cycles_that_came_so_far() -> None:
    """Six cycles: 0 beam, 1 outside, 2 depth, 2 depth, 1 end, 0 end. At depth 2 one that ended with its answer is not asked."""
    cycles = Replayed([0] * 6, [0, 1, 2, 2, 1, 0], ["beam", "outside", "depth", "depth", "end", "end"])
    assert depths([cycles]) == [
        {"depth": 1, "cycles": 4, "share": 4 / 6, "asked": 5, "conditional": 4 / 5},
        {"depth": 2, "cycles": 2, "share": 2 / 6, "asked": 3, "conditional": 2 / 3},
    ]
    assert depths([]) == []


def test_the_length_is_one_and_the_shares_of_all_depths() -> None:
    each = replayed([0, 3, 1, 2], ["beam", "depth", "rerank", "outside"])
    found = figures([each], seed=0)
    assert found["acceptance_length"] == pytest.approx(1 + sum(row["share"] for row in found["depths"])) == 2.5
    assert found["misses"] == {"outside": 1, "beam": 1, "rerank": 1, "depth": 1, "end": 0}


def test_what_is_kept_is_a_ratio_of_lengths_and_of_itself_exactly_one() -> None:
    full = [replayed([2, 1], ["beam", "beam"]), replayed([3], ["depth"]), replayed([], [])]
    ours = [replayed([1, 1], ["beam", "beam"]), replayed([2], ["beam"]), replayed([], [])]
    assert kept(full, full, seed=0) == {"value": 1.0, "low": 1.0, "high": 1.0}
    found = kept(ours, full, seed=0)
    assert found is not None
    assert found["value"] == pytest.approx((7 / 3) / (9 / 3))
    assert found["low"] <= found["value"] <= found["high"] < 1
    assert kept(full[2:], full[2:], seed=0) is None


def test_text_after_the_end_is_counted_apart() -> None:
    after = Replayed([0, 1], [0, 0], ["beam", "beam"])
    texts = [replayed([3], ["depth"], after=after, tokens=5), replayed([1], ["beam"])]
    found = after_end(texts, seed=0)
    assert found is not None
    assert (found["answers"], found["tokens"], found["cycles"], found["acceptance_length"]) == (1, 5, 2, 1.0)
    assert found["with_it"]["value"] == pytest.approx((4 + 2 + 1 + 1) / 4)
    assert figures(texts, seed=0)["acceptance_length"] == 3.0
    assert after_end(texts[1:], seed=0) is None


def test_an_answer_is_cut_behind_its_first_end_of_sequence() -> None:
    whole = answer([4, 0, 5, 6, 0, 3], finished=False)
    text = Text.of(whole, [0])
    assert (text.answer.ids.tolist(), text.answer.finished) == ([7, 8, 4, 0], True)
    assert text.after is not None
    assert (text.after.ids.tolist(), text.after.prompt_length, text.after_tokens) == ([7, 8, 4, 0, 5, 6, 0, 3], 4, 4)
    assert not text.after.finished
    shorter = Text.of(whole, [0], most=4)
    assert shorter.after is not None
    assert shorter.after.ids.tolist() == [7, 8, 4, 0, 5, 6]
    assert Text.of(answer([4, 0]), [0]).after is None
    assert Text.of(answer([4, 0, 9]), [0]).after is None, "a single token has no cycle"
    assert Text.of(whole, []).answer is whole


def test_cycles_are_sorted_by_the_place_of_their_first_draft() -> None:
    """Token number 1 of an answer is the prefill's; a cycle rooted there drafts number 2."""
    each = replayed([1] * 5, ["beam"] * 5, roots=[0, 30, 31, 127, 600])
    groups = by_position([each])
    assert tuple(groups) == POSITIONS
    assert [group[0].cycles.roots for group in groups.values()] == [[0, 30], [31], [127], [600]]
    assert list(by_position([replayed([1], ["beam"])])) == ["1-32"]


def test_groups_hold_what_is_kept_in_them() -> None:
    full = [replayed([3], ["depth"], source="code"), replayed([1], ["beam"], source="chat")]
    ours = [replayed([1], ["beam"], source="code"), replayed([1], ["beam"], source="chat")]
    found = group_figures(ours, full, by="task", seed=0)
    assert {name: each["kept"]["value"] for name, each in found.items()} == {"chat": 1.0, "code": 0.5}
    assert {name: each["kept"] for name, each in group_figures(ours, None, by="task", seed=0).items()} == {
        "chat": None,
        "code": None,
    }


def test_a_language_is_the_records_own_or_the_script_of_most_tokens(tiny_folder) -> None:
    tokenizer = load_tokenizer(str(tiny_folder))
    latin = [tokenizer.id_of(letter) for letter in "abc"]
    digits = [tokenizer.id_of(digit) for digit in "1234"]
    given = [answer([*latin, *digits]), answer(digits), replace(answer(latin), language="nl")]
    assert [each.language for each in with_languages(given, tokenizer)] == ["Latin", "other", "nl"]
