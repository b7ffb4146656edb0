"""The demo: plain decoding, EAGLE-2 and FR-Spec on the same prompts, in one summary.

In float32 identity is shown token by token; in a shorter dtype the texts may part at a near tie, as `verify` judges it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from frspec_cli import storage
from frspec_cli.answers.batched_decode import TokenizedPrompt, tokenize
from frspec_cli.answers.prompts import Prompt
from frspec_cli.bench.measure import Arm, Totals, measure_prompt, warm_up
from frspec_cli.decoding.generation import Generation
from frspec_cli.decoding.options import Method, TreeConfig
from frspec_cli.decoding.pipeline import Pipeline, load_pipeline
from frspec_cli.decoding.text import decode
from frspec_cli.models.shipped import DEFAULT_K, DEFAULT_MODEL
from frspec_cli.models.target import load_target
from frspec_cli.verification.identity import first_difference
from frspec_cli.verification.options import EXACT_DTYPES, VerifyOptions
from frspec_cli.verification.rules import Check, Verifier, settle_by_rounding

PROMPTS = (
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a lighthouse keeper and a lost whale.",
    "What are three good habits for a student who wants to sleep better?",
    "Give me a simple recipe for vegetable soup.",
    "Write an email to a colleague asking to move a meeting to Thursday.",
    "Describe how a bicycle stays upright when it moves.",
)
TREE = TreeConfig(depth=3, beam=4, nodes=8)
"""Unless another is chosen: the best of seven trees on two cores, where a row more costs a few per cent."""
MAX_NEW_TOKENS = 64
_METHODS: tuple[Method, ...] = ("ar", "eagle", "frspec")
_LOCAL = "frspec-local"


def demo(
    *,
    local: Path | None,
    out: Path,
    tree: TreeConfig = TREE,
    dtype: str = "float32",
    show: Callable[[int, dict[str, Any]], None] = lambda done, methods: None,
) -> dict[str, Any]:
    """Decodes the prompts with every method, writes `out`/summary.json and returns it.

    local: a subset that the user has just counted, shown as one more row.
    tree: the draft tree of every method.
    show: called after every prompt with the number that is done and the figures so far, by method.
    """
    target = load_target(DEFAULT_MODEL, dtype=dtype)
    shipped = load_pipeline(target)
    engines = {str(method): shipped.engine(method, tree=tree) for method in _METHODS}
    if local is not None:
        engines[_LOCAL] = load_pipeline(target, vocab=str(local), k=DEFAULT_K).engine("frspec", tree=tree)
    arms = [Arm(name, engine, engine.drafter.k) for name, engine in engines.items()]
    prompts = tokenize(target, [Prompt(text, id=str(number)) for number, text in enumerate(PROMPTS, start=1)])
    for arm in arms:
        warm_up(arm.decoder, [prompt.ids for prompt in prompts], max_new_tokens=MAX_NEW_TOKENS)
    texts: dict[str, list[Generation]] = {arm.name: [] for arm in arms}
    for turn, prompt in enumerate(prompts):
        for measurement in measure_prompt(arms, prompt.ids, turn=turn, max_new_tokens=MAX_NEW_TOKENS):
            texts[measurement.arm].append(measurement.generation)
        show(turn + 1, {arm.name: _figures(arm, Totals.of(texts[arm.name])) for arm in arms})
    methods = {arm.name: _figures(arm, Totals.of(texts[arm.name])) for arm in arms}
    near_ties, differences = _judge(prompts, texts, local, tree, dtype)
    summary = {
        "prompts": len(prompts),
        "max_new_tokens": MAX_NEW_TOKENS,
        "dtype": dtype,
        "tree": {"depth": tree.depth, "beam": tree.beam, "nodes": tree.nodes},
        "identical": not differences,
        "near_ties": near_ties,
        "differences": differences,
        "methods": methods,
        "sample": {"prompt": PROMPTS[0], "text": decode(target.processor, texts["frspec"][0].token_ids)},
    }
    storage.write_json(out / "summary.json", summary)
    return summary


def _judge(
    prompts: list[TokenizedPrompt], texts: dict[str, list[Generation]], local: Path | None, tree: TreeConfig, dtype: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(differences from plain decoding that verification's rule explains by a near tie, all others)."""
    near_ties: list[dict[str, Any]] = []
    unexplained: list[dict[str, Any]] = []
    for name, generations in texts.items():
        positions = [
            first_difference(plain.token_ids, generation.token_ids)
            for plain, generation in zip(texts["ar"], generations, strict=True)
        ]
        differing = [index for index, position in enumerate(positions) if position is not None]
        if not differing:
            continue
        verdicts = _verdicts(name, [prompts[index] for index in differing], local, tree, dtype)
        for index in differing:
            record = {"method": name, "prompt": prompts[index].id, "position": positions[index]}
            margin, explained = verdicts[prompts[index].id]
            (near_ties if explained else unexplained).append(record | {"margin": margin})
    return near_ties, unexplained


def _verdicts(
    name: str, prompts: list[TokenizedPrompt], local: Path | None, tree: TreeConfig, dtype: str
) -> dict[str, tuple[float | None, bool]]:
    """By prompt: (the top-2 margin at the first difference, whether rounding explains it), as `frspec verify` decides."""
    vocab = str(local) if name == _LOCAL else None
    method: Method = "eagle" if name == "eagle" else "frspec"

    def load(dtype: str) -> Pipeline:
        target = load_target(DEFAULT_MODEL, dtype=dtype)
        return load_pipeline(target, vocab=vocab, k=None if vocab is None else DEFAULT_K)

    options = VerifyOptions(
        method=method, depth=tree.depth, beam=tree.beam, nodes=tree.nodes, max_new_tokens=MAX_NEW_TOKENS, dtype=dtype
    )
    verifier = Verifier(load, options)
    rule: Literal["stepwise", "reduced"] = "stepwise" if dtype in EXACT_DTYPES else "reduced"
    check = Check("greedy, step by step", rule, dtype, tuple(range(len(prompts))))
    outcomes = [verifier.outcome(check, prompt) for prompt in prompts]
    if rule == "reduced":
        outcomes = settle_by_rounding(outcomes)
    verdicts: dict[str, tuple[float | None, bool]] = {}
    for prompt, outcome in zip(prompts, outcomes, strict=True):
        settled = verifier.settle(check, prompt, outcome) if outcome.undecided else outcome
        # Without a difference the two runs contradict each other, which no rule explains.
        margin = settled.differences[0].margin if settled.differences else None
        verdicts[prompt.id] = margin, bool(settled.differences) and settled.passed
    return verdicts


def _figures(arm: Arm, totals: Totals) -> dict[str, Any]:
    return {
        "k": arm.k or None,
        "new_tokens": totals.new_tokens,
        "cycles": totals.cycles,
        "acceptance_length": round(totals.acceptance_length, 4),
        "tokens_per_second": round(totals.tokens_per_second, 3),
        "seconds": {name: round(value, 4) for name, value in totals.seconds.items()},
        "draft_seconds_per_cycle": round(totals.draft_seconds_per_cycle, 6),
    }
