"""A result that was edited by hand is refused in one sentence that says what does not follow from what."""

from __future__ import annotations

import json

import pytest

from frspec_cli.errors import FrspecError
from frspec_cli.report.contradictions import contradictions
from frspec_cli.report.results import read_results

INTERVAL = {"value": 2.0, "low": 1.5, "high": 2.5}


def bench():
    """Two prompts, plain and drafted, whose figures are worked out by hand."""

    def text(prompt, method, accepted, seconds):
        ids = [7] * (1 + len(accepted) + sum(accepted))
        return {
            "id": prompt, "run": 0, "category": "chat", "method": method, "token_ids": ids, "cycles": len(accepted),
            "accepted": accepted, "seconds": {"total": seconds, "prefill": 1.0},
        }  # fmt: skip

    def arm(speed, decode, length, against=None):
        return {
            "k": None, "tokens_per_second": speed, "decode_tokens_per_second": decode, "acceptance_length": length,
            "speedup": against, "identical": {"prompts": 2, "equal": 2, "differences": []}, "seconds": {"total": 6.0},
        }  # fmt: skip

    return {
        "environment": {},
        "options": {"depth": 3},
        "prompts": [
            text("a", "ar", [0] * 8, 6.0), text("b", "ar", [0] * 6, 4.0),
            text("a", "eagle", [3, 0, 2], 3.0), text("b", "eagle", [1, 1, 1], 2.0),
        ],
        "summary": {
            "ar": arm(1.6, 1.75, 1.0),
            "eagle": arm(3.2, 14 / 3, 1 + 8 / 6, {"value": 2.0, "low": 1.5, "high": 2.5, "against": "ar"}),
        },
    }  # fmt: skip


def replay():
    """Two answers of three cycles."""
    group = {"answers": 1, "cycles": 3, "interval": INTERVAL}
    arm = {
        "method": "eagle", "k": 9, "draft": None, "vocab": None, "cycles": 6, "depth": 3,
        "interval": {"value": 1 + 8 / 6, "low": 2.0, "high": 2.6}, "kept": None,
        "depths": [{"depth": 1, "cycles": 5, "share": 5 / 6, "conditional": 1.0},
                   {"depth": 2, "cycles": 2, "share": 2 / 6, "conditional": 1.0}],
        "misses": {"outside": 2, "beam": 4}, "miss_shares": {"outside": 2 / 6, "beam": 4 / 6},
        "categories": {"x": group, "y": group}, "languages": {}, "positions": {},
    }  # fmt: skip
    rows = [{"method": "eagle", "accepted": [3, 0, 2]}, {"method": "eagle", "accepted": [1, 1, 1]}]
    return {
        "kind": "replay", "environment": {}, "options": {}, "answers": {"answers": 2}, "prompts": rows,
        "summary": {"eagle": arm},
    }  # fmt: skip


def profile():
    arm = {
        "k": 9, "acceptance_length": 2.5, "cycle_ms": INTERVAL, "draft_ms": INTERVAL, "parts_ms": {},
        "shares": {"target": 0.75, "rest": 0.25},
    }  # fmt: skip
    return {"environment": {}, "options": {"depth": 3}, "profile": {"methods": {"eagle": arm}, "ratios": {}}}


def coverage():
    row = {
        "subset": "s", "on": "t", "k": 9, "source": "all", "script": "all", "tokens": 50, "coverage": 0.9, "low": 0.8,
        "high": 0.95,
    }  # fmt: skip
    return {"rows": [row, {**row, "k": 20, "coverage": 0.92}]}


def tune():
    """One way, whose cycle takes 50 ms: 20 for the target, 3 once, 3 levels of 4 and 4 LM heads, of 3 and 4 ms."""
    way = {
        "method": "frspec", "dtype": "float32", "k": 64, "depth": 4, "beam": 2, "nodes": 8, "predicted": 60.0,
        "acceptance_length": 3.0, "step_ms": 50.0, "measured": None,
    }  # fmt: skip
    costs = {
        "dtype": "float32", "k": 64, "plain": [{"ms": 15.0, "context": 32}], "cycle": {"ms": 3.0},
        "target": [{"ms": 20.0, "context": 32, "rows": 8}, {"ms": 30.0, "context": 32, "rows": 16}],
        "level": [{"ms": 4.0, "rows": 2}], "head": [{"ms": 3.0, "k": 64, "rows": 1}, {"ms": 4.0, "k": 64, "rows": 2}],
    }  # fmt: skip
    return {
        "kind": "tune", "schema": 1, "environment": {}, "compiled": False, "context": 32, "acceptance": [], "ways": [way],
        "options": {"model": "m", "limit": 5, "measured_here": True},
        "about": {"model": "m", "head": None, "subset": None},
        "costs": {"kind": "costs", "schema": 1, "machine": {}, "source": "here", "model": "m", "costs": [costs]},
    }  # fmt: skip


MADE = {"bench": bench, "replay": replay, "profile": profile, "coverage": coverage, "tune": tune}


@pytest.mark.parametrize("kind", MADE)
def test_what_follows_is_read(kind, tmp_path):
    path = tmp_path / f"{kind}.json"
    path.write_text(json.dumps(MADE[kind]()))
    assert [result.kind for result in read_results([path])] == [kind]


EDITED = {  # a field and its new value: what is said of it
    "bench summary.eagle.acceptance_length = 5.0": "summary.eagle.acceptance_length is 5, and 2.333 follows from the rest",
    "bench summary.eagle.tokens_per_second = 4.0": "summary.eagle.tokens_per_second is 4, and 3.2 follows from the rest",
    "bench summary.ar.decode_tokens_per_second = 2.0": "summary.ar.decode_tokens_per_second is 2, and 1.75 follows",
    "bench summary.eagle.speedup.value = 2.2": "summary.eagle.speedup is 2.2, and 2 follows from the rest",
    "bench summary.eagle.speedup.low = 2.6": "summary.eagle.speedup is an interval from 2.6 to 2.5",
    "bench summary.eagle.identical.equal = 1": "summary.eagle.identical says 1 of 2 texts, and the token ids of 2 of 2",
    "bench prompts.2.token_ids.0 = 8": "summary.eagle.identical says 2 of 2 texts, and the token ids of 1 of 2",
    "bench prompts.2.cycles = 4": "row 3 of prompts has 4 cycles and 3 accepted counts",
    "bench prompts.2.accepted.0 = 4": "row 3 of prompts has a cycle that accepted 4 tokens from trees of depth 3",
    "bench prompts.2.accepted = [1, 0, 2]": "row 3 of prompts has 9 tokens, and its cycles give 7 at most",
    "bench prompts.2.seconds.prefill = 9.0": "row 3 of prompts has seconds below zero, or a prefill of more than the total",
    "bench prompts.2.method = lookup": "eagle has 1 rows under prompts where another method has 2",
    "replay summary.eagle.cycles = 7": "summary.eagle has 7 cycles, and its rows have 6",
    "replay summary.eagle.interval.value = 2.5": "summary.eagle.interval is 2.5, and 2.333 follows from the rest",
    "replay summary.eagle.misses.beam = 5": "summary.eagle has 6 cycles, and reasons for 7",
    "replay summary.eagle.miss_shares.beam = 0.9": "summary.eagle.miss_shares add up to 1.233, not to 1",
    "replay summary.eagle.depth = 2": "summary.eagle has trees of depth 2, and a cycle accepted 3 tokens",
    "replay summary.eagle.depths.1.cycles = 6": "summary.eagle.depths has more cycles at a depth than above it",
    "replay summary.eagle.categories.x.cycles = 2": "summary.eagle has 6 cycles, and its categories have another sum",
    "replay answers.answers = 3": "eagle has 2 rows under prompts of 3 answers",
    "profile profile.methods.eagle.shares.rest = 0.5": "profile.methods.eagle.shares add up to 1.25, not to 1",
    "profile profile.methods.eagle.acceptance_length = 4.5": "of 4.50 from trees of depth 3: it is from 1 to 4",
    "tune ways.0.predicted = 70.0": "ways.0.predicted is 70, and 60 follows from the rest",
    "tune ways.0.acceptance_length = 5.5": "way 1 has an acceptance length of 5.50 from trees of depth 4",
    "coverage rows.0.coverage = 0.99": "row 1 of rows has a coverage of 0.9900 (0.8000 to 0.9500)",
    "coverage rows.1.tokens = 51": "row 2 of rows counts 51 tokens where another of the same text counts 50",
}


@pytest.mark.parametrize("edit", EDITED)
def test_what_does_not_follow_is_refused(edit, tmp_path):
    kind, _, rest = edit.partition(" ")
    field, _, value = rest.partition(" = ")
    record = MADE[kind]()
    *path, last = [int(part) if part.isdecimal() else part for part in field.split(".")]
    inner = record
    for part in path:
        inner = inner[part]
    inner[last] = value if value == "lookup" else json.loads(value)
    file = tmp_path / "edited.json"
    file.write_text(json.dumps(record))
    with pytest.raises(FrspecError) as caught:
        read_results([file])
    assert str(caught.value).startswith(f"{file} contradicts itself: ")
    assert EDITED[edit] in str(caught.value)


def test_the_first_of_several_sizes_may_be_named_twice():
    record = replay()
    record["summary"]["frspec@9"] = record["summary"]["frspec"] = record["summary"]["eagle"]
    record["prompts"] += [{**row, "method": "frspec@9"} for row in record["prompts"]]
    assert list(contradictions("replay", record)) == []
