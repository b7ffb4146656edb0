"""The demo's last step: plain decoding, EAGLE-2 and FR-Spec on the same prompts, in one summary.

It decodes in float32, so that identity can be shown token by token.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from frspec_cli import storage
from frspec_cli.answers.prompts import Prompt
from frspec_cli.bench.measure import Arm, Measurement, Totals, run
from frspec_cli.decoding.drafters import Drafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.pipeline import Method, Pipeline, load_pipeline
from frspec_cli.decoding.tree import TreeConfig
from frspec_cli.models.shipped import DEFAULT_K, DEFAULT_MODEL
from frspec_cli.models.target import Target, load_target
from frspec_cli.verification import identity

PROMPTS = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a lighthouse keeper and a lost whale.",
    "What are three good habits for a student who wants to sleep better?",
    "Give me a simple recipe for vegetable soup.",
    "Write an email to a colleague asking to move a meeting to Thursday.",
    "Describe how a bicycle stays upright when it moves.",
)
SHAPE = TreeConfig(
    depth=3, beam=4, nodes=8
)  # the best of seven trees on two cores; a row more costs a few per cent of a pass
MAX_NEW_TOKENS = 64


def demo(*, local: Path | None, out: Path, done: Callable[[Measurement], None]) -> dict[str, Any]:
    """Decodes the prompts with every method, writes `out`/summary.json and returns it.

    local: a subset that the user has just counted, shown as one more row. done: called after every text.
    """
    target = load_target(DEFAULT_MODEL, dtype="float32")
    arms = _arms(target, local)
    prompts = [Prompt(text, id=str(number)) for number, text in enumerate(PROMPTS, start=1)]
    totals = {arm.name: Totals(arm.name, arm.k) for arm in arms}
    measured = []
    for item in run(target, arms, prompts, max_new_tokens=MAX_NEW_TOKENS):
        measured.append(item)
        totals[item.arm].add(item.generation)
        done(item)
    near_ties, broken = _compare(target, measured, local)
    summary = {
        "prompts": len(prompts),
        "max_new_tokens": MAX_NEW_TOKENS,
        "dtype": "float32",
        "tree": {"depth": SHAPE.depth, "beam": SHAPE.beam, "nodes": SHAPE.nodes},
        "identical": not broken,
        "near_ties": near_ties,
        "differences": broken,
        "methods": {name: _figures(total) for name, total in totals.items()},
    }
    storage.write_json(out / "summary.json", summary)
    return summary


def _arms(target: Target, local: Path | None) -> list[Arm]:
    parts = load_pipeline(target)
    arms = [Arm(name, Engine(target, drafter), drafter.k) for name, drafter in _drafters(parts)]
    if local is not None:
        own = load_pipeline(target, vocab=str(local), k=DEFAULT_K).drafter("frspec", shape=SHAPE)
        arms.append(Arm("frspec-local", Engine(target, own), own.k))
    return arms


def _drafters(parts: Pipeline) -> list[tuple[str, Drafter]]:
    methods: tuple[Method, ...] = ("ar", "eagle", "frspec")
    return [(method, parts.drafter(method, shape=SHAPE)) for method in methods]


def _compare(target: Target, measured: list[Measurement], local: Path | None) -> tuple[list[dict], list[dict]]:
    """(differences from plain decoding that are near ties and vanish in float64, all other differences)."""
    plain = {item.prompt.id: item for item in measured if item.arm == "ar"}
    near_ties: list[dict] = []
    broken: list[dict] = []
    for item in measured:
        reference = plain[item.prompt.id].generation.token_ids
        position = identity.first_difference(reference, item.generation.token_ids)
        if position is None:
            continue
        scores = identity.score(target, item.prompt_ids, reference)
        margin = scores.margin[position] if position < len(reference) else float("inf")
        found = {"method": item.arm, "prompt": item.prompt.id, "position": position, "margin": margin}
        explained = margin < identity.NEAR_TIE and _equal_in_float64(item, local)
        (near_ties if explained else broken).append(found)
    return near_ties, broken


def _equal_in_float64(item: Measurement, local: Path | None) -> bool:
    arms = {arm.name: arm for arm in _arms(load_target(DEFAULT_MODEL, dtype="float64"), local)}
    texts = [
        arms[name].decoder.complete(item.prompt_ids, max_new_tokens=MAX_NEW_TOKENS).token_ids
        for name in ("ar", item.arm)
    ]
    return texts[0] == texts[1]


def _figures(total: Totals) -> dict[str, Any]:
    return {
        "k": total.k or None,
        "new_tokens": total.new_tokens,
        "cycles": total.cycles,
        "acceptance_length": round(total.acceptance_length, 4),
        "tokens_per_second": round(total.tokens_per_second, 3),
        "seconds": {name: round(value, 4) for name, value in total.seconds.items()},
        "draft_seconds_per_cycle": round(total.draft_seconds_per_cycle, 6),
    }
