"""What is wrong with a draft head, by replays of its target's answers.

First the readings: the one that accepts most is taken where its gain is sure, and then all are tried again from there, for
two things may be wrong at once. Then what limits the head as it should be read: the subset, the beam, the tree, or itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from frspec_cli.answers.records import Answer
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.doctor.ceilings import expectations
from frspec_cli.doctor.faults import faults, next_steps
from frspec_cli.doctor.file_checks import file_checks
from frspec_cli.doctor.options import SURE, DoctorOptions
from frspec_cli.doctor.readings import Reading
from frspec_cli.doctor.replays import DraftSetup, Replays, Tried
from frspec_cli.progress import Callbacks
from frspec_cli.replay.cycles import Acceptance
from frspec_cli.replay.groups import GROUPS
from frspec_cli.replay.report import ReplayedAnswer, describe, figures, kept
from frspec_cli.resume import RunFolder

HOPELESS = 1.25
"""The acceptance length below which a head drafts hardly anything, under any reading and however prompts are put."""
_MOST_ANSWERS = 10_000


def diagnose(
    setup: DraftSetup,
    answers: Sequence[Answer],
    options: DoctorOptions,
    folder: RunFolder,
    *,
    other_prompts: Mapping[str, Sequence[Answer]] | None = None,
    checks: Mapping[str, Any] | None = None,
    new_tokens: int | None = None,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """What was found, as JSON values.

    other_prompts: answers to the same prompts (by `id`), put to the target in another way, by that way in words.
    checks: what else the files show, beside `file_checks`.
    new_tokens: no cycle begins once an answer has this many tokens; None for no limit.
    callbacks: `begin` gets the number of readings of each round, `finished` each.

    verdict: `own` (none surely accepts more than the files' own), `reading` (another does) or `target` (none drafts).
    readings: of each tried, its cause, words, acceptance length, what it accepts against the files' own (`times`) and what
        follows (`says`, see `compared`). around: the same against the best reading.
    changes: what to read otherwise, best first, with those of one cause that could not be told from it (`ties`).
    limits: why cycles end, with the best reading. faults: cause and sentence of each. next: what to try.
    """
    callbacks = callbacks or Callbacks()
    replays, seed = Replays(setup, answers, options, folder, new_tokens=new_tokens), options.seed
    now = first = replays.replayed(setup.filed)
    if replays.ids is not None and _length(first) < HOPELESS:  # the subset would hide what the readings do
        replays.ids = None
        first = replays.replayed(setup.filed)
    (reading, replayed), changes, readings, around = _best_reading(replays, first, callbacks)
    served = replayed if replays.ids is setup.subset_ids else replays.replayed(reading, ids=setup.subset_ids)
    prompts = {
        name: _otherwise(Replays(setup, each, options, folder, name=f"otherwise-{number}", new_tokens=new_tokens), now)
        for number, (name, each) in enumerate((other_prompts or {}).items())
    }
    drafts = [_length(replayed), *(each["acceptance"]["value"] for each in prompts.values() if each["acceptance"])]
    drafting = max(drafts) >= HOPELESS
    result: dict[str, Any] = {
        "answers": describe(replays.answers),
        "verdict": "target" if not drafting else "reading" if changes else "own",
        "as_served": figures(now, seed=seed)["interval"],
        "acceptance_length": _length(replayed),
        "interval": figures(replayed, seed=seed)["interval"],
        "times": kept(replayed, first, seed=seed),
        "changes": changes,
        "readings": sorted(readings, key=lambda row: -row["acceptance_length"]),
        "around": sorted(around, key=lambda row: -row["acceptance_length"]),
        "limits": figures(served, seed=seed)["miss_shares"],
        "groups": _groups(served, seed=seed),
        "checks": {**file_checks(setup, reading), **(checks or {})},
        "prompts": prompts,
        "usual_tree": options.tree == TreeConfig(),
        **expectations(replays, now, (reading, served), changed=bool(changes), ceilings=drafting and options.ceilings),
    }
    result["faults"] = faults(result)
    return result | {"next": next_steps(result)}


def _best_reading(
    replays: Replays, first: list[ReplayedAnswer], callbacks: Callbacks
) -> tuple[Tried, list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """(the reading that accepts most and its replay, the changes to it, rows against the files' own and theirs, rows against
    the best)."""
    options, filed = replays.options, replays.setup.filed
    best: Tried = (filed, first)
    changes: list[dict[str, Any]] = []
    rounds: list[list[dict[str, Any]]] = []
    while True:
        others = replays.others(best[0])
        callbacks.begin(len(others))
        tried: list[Tried] = []
        for reading in others:
            tried.append((reading, replays.replayed(reading)))
            callbacks.finished(1)
        rows = [compared(*each, best[1], seed=options.seed) for each in tried]
        rounds.append(rows)
        better = [number for number, row in enumerate(rows) if row["says"] == "better"]
        if not better or len(changes) == options.changes:
            return best, changes, [compared(filed, first, first, seed=options.seed), *rounds[0]], rows
        top = max(better, key=lambda number: rows[number]["acceptance_length"])
        likely, ties = _ties(top, better, tried, seed=options.seed)
        changes.append({**rows[likely], "ties": [tried[number][0].what for number in ties]})
        best = tried[likely]


def _ties(top: int, better: Sequence[int], tried: Sequence[Tried], *, seed: int) -> tuple[int, list[int]]:
    """(the reading to take, those that the answers cannot tell from it): of one cause, the one that is most often right."""
    same = [number for number in better if tried[number][0].cause == tried[top][0].cause]
    level = [number for number in same if _says(kept(tried[number][1], tried[top][1], seed=seed)) != "worse"]
    return level[0], level[1:]


def compared(
    reading: Reading, replayed: Sequence[ReplayedAnswer], base: Sequence[ReplayedAnswer], *, seed: int
) -> dict[str, Any]:
    """A reading's row: its acceptance length, and against the base's (`times`), paired by answer.

    says: `better`; `perhaps`, if the interval lies above 1 but the gain is small; `worse`; `same`, if no answer shows a
        difference; else `unclear`.
    answers_needed: about how many would show an unclear difference of this size; None where it is clear, or tiny.
    """
    times = kept(replayed, base, seed=seed)
    says = _says(times)
    needed = None
    if times is not None and says == "unclear":
        half, gap = (times["high"] - times["low"]) / 2, abs(times["value"] - 1)
        count = sum(bool(each.cycles.accepted) for each in replayed) * (half / gap) ** 2 if gap else _MOST_ANSWERS + 1
        needed = round(count) if count <= _MOST_ANSWERS else None
    return {
        "cause": reading.cause,
        "what": reading.what,
        "name": reading.name,
        "acceptance_length": _length(replayed),
        "times": times or {"value": 1.0, "low": 1.0, "high": 1.0},
        "says": says,
        "answers_needed": needed,
    }


def _length(replayed: Sequence[ReplayedAnswer]) -> float:
    """The acceptance length."""
    return Acceptance.of([each.cycles for each in replayed]).length


def _says(times: dict[str, float] | None) -> str:
    if times is None or times["low"] == times["high"] == 1:
        return "same"
    if times["high"] < 1:
        return "worse"
    if times["low"] <= 1:
        return "unclear"
    return "better" if times["value"] >= SURE else "perhaps"


def _groups(replayed: Sequence[ReplayedAnswer], *, seed: int) -> dict[str, dict[str, Any]]:
    """Answers and acceptance length by task and by language."""
    found: dict[str, dict[str, Any]] = {}
    for by in ("task", "language"):
        groups = GROUPS[by](replayed)
        lengths = {name: figures(group, seed=seed)["interval"] for name, group in groups.items()}
        found[by] = {
            name: {"answers": len(groups[name]), "acceptance": length}
            for name, length in lengths.items()
            if length is not None
        }
    return found


def _otherwise(replays: Replays, first: Sequence[ReplayedAnswer]) -> dict[str, Any]:
    """The head, read as its files say, over answers to the same prompts that were put to the target in another way.

    acceptance: there. times: against the answers as they are given, paired by prompt.
    repeated_4grams, usual_4grams: how much repeats itself in the answers there, and as they are given.
    """
    seed = replays.options.seed
    there = {each.answer.id: each for each in replays.replayed(replays.setup.filed)}
    usual = [each for each in first if each.answer.id in there]
    others = [there[each.answer.id] for each in usual]
    return {
        "answers": len(others),
        "acceptance": figures(others, seed=seed)["interval"],
        "times": kept(others, usual, seed=seed),
        "repeated_4grams": describe([each.answer for each in others])["repeated_4grams"],
        "usual_4grams": describe([each.answer for each in usual])["repeated_4grams"],
    }
