"""Replayed answers by task, by language and by position: where a subset holds, and where it does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from frspec_cli.answers.records import Answer
from frspec_cli.replay.cycles import Replayed
from frspec_cli.replay.report import ReplayedAnswer, describe, figures, kept
from frspec_cli.subsets.scripts import CJK, NONE, OTHER, PARTIAL, script_of
from frspec_cli.tokens.tokenizer import LoadedTokenizer

POSITIONS = ("1-32", "33-128", "129-512", "513-")
_ENDS = (32, 128, 512)


def with_languages(answers: Sequence[Answer], tokenizer: LoadedTokenizer) -> list[Answer]:
    """The answers, each with a language: its own, or the script that most of its answered tokens are written in."""
    ids = np.unique(np.concatenate([answer.ids[answer.prompt_length :] for answer in answers]))
    known = [
        token_id for token_id in ids.tolist() if token_id in tokenizer.vocabulary and token_id not in tokenizer.added
    ]
    scripts = dict(zip(known, map(script_of, tokenizer.tokens_bytes(known)), strict=True))
    return [answer if answer.language else replace(answer, language=_script(answer, scripts)) for answer in answers]


def by_task(replayed: Sequence[ReplayedAnswer]) -> dict[str, list[ReplayedAnswer]]:
    """The answers of each task: the records' own `source` or `category`."""
    return _grouped(replayed, [each.answer.source for each in replayed])


def by_language(replayed: Sequence[ReplayedAnswer]) -> dict[str, list[ReplayedAnswer]]:
    """The answers of each language or script."""
    return _grouped(replayed, [each.answer.language for each in replayed])


def by_position(replayed: Sequence[ReplayedAnswer]) -> dict[str, list[ReplayedAnswer]]:
    """All answers, with the cycles alone whose first drafted token is at one of these places of the answer (1, 2, ..)."""
    return {
        name: [replace(each, cycles=_between(each.cycles, start, end)) for each in replayed]
        for name, start, end in zip(POSITIONS, (0, *_ENDS), (*_ENDS, None), strict=True)
        if any(root + 1 >= start for each in replayed for root in each.cycles.roots)
    }


GROUPS = {"task": by_task, "language": by_language, "position": by_position}


def group_figures(
    replayed: Sequence[ReplayedAnswer], full: Sequence[ReplayedAnswer] | None, *, by: str, seed: int
) -> dict[str, dict[str, Any]]:
    """`describe` and `figures` of each group, and the acceptance `kept` against the full vocabulary (None without it)."""
    base: Mapping[str, Sequence[ReplayedAnswer]] = GROUPS[by](full) if full is not None else {}
    return {
        name: {
            **describe([each.answer for each in group]),
            **figures(group, seed=seed),
            "kept": kept(group, base[name], seed=seed) if name in base else None,
        }
        for name, group in GROUPS[by](replayed).items()
    }


def _grouped(replayed: Sequence[ReplayedAnswer], names: Sequence[str]) -> dict[str, list[ReplayedAnswer]]:
    groups: dict[str, list[ReplayedAnswer]] = {name: [] for name in sorted(set(names))}
    for name, each in zip(names, replayed, strict=True):
        groups[name].append(each)
    return groups


def _between(cycles: Replayed, start: int, end: int | None) -> Replayed:
    """The cycles whose first drafted token has an index from `start` to before `end` in the answer."""
    rows = [i for i, root in enumerate(cycles.roots) if root + 1 >= start and (end is None or root + 1 < end)]
    return Replayed(
        [cycles.roots[i] for i in rows], [cycles.accepted[i] for i in rows], [cycles.misses[i] for i in rows]
    )


def _script(answer: Answer, scripts: Mapping[int, str]) -> str:
    """The script of most answered tokens, `cjk` for any of those; `other` if no token has one."""
    found = Counter(scripts.get(token_id, NONE) for token_id in answer.ids[answer.prompt_length :].tolist())
    counts: Counter[str] = Counter()
    for script, count in found.items():
        if script not in (NONE, PARTIAL):
            counts["cjk" if script in CJK else script] += count
    return min(counts, key=lambda script: (-counts[script], script)) if counts else OTHER
