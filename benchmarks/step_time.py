"""Milliseconds of one step at several lengths of context: plain decoding and FR-Spec here, `generate` of transformers.

    python -m benchmarks.step_time --model smollm2-135m --contexts 100,1000,4000 --out out/bench-cycle

Same weights, dtype, prompt ids and number of tokens. The arms take turns in every round, after each has decoded one text
unmeasured. A step of plain decoding and of transformers is a token; of FR-Spec a cycle, which yields several. Ids are
compared with plain decoding's, so that equal work is shown and not assumed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.command import run_and_show
from frspec_cli.bench.baseline import ATTENTION, TransformersBaseline
from frspec_cli.bench.demo import PROMPTS
from frspec_cli.bench.measure import rotated
from frspec_cli.bench.profile import time_text
from frspec_cli.bench.untrained import NAME, with_untrained_head
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.pipeline import Pipeline, load_pipeline
from frspec_cli.environment import environment
from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.models.shipped import DEFAULT_K, DEFAULT_MODEL
from frspec_cli.models.target import Target, load_target
from frspec_cli.statistics import median, median_ratio

SCHEMA = 1


@dataclass
class Arm:
    """One way to decode.

    decode: (prompt ids, new tokens) -> (token ids, seconds of each step).
    rounds, texts: what it measured, round by round.
    """

    decode: Callable[[Sequence[int], int], tuple[list[int], list[float]]]
    rounds: list[list[float]] = field(default_factory=list)
    texts: list[list[int]] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Measures, shows the table, writes `cycle.json` and `cycle.md`; exit codes as `frspec` has them."""
    result = run_and_show(lambda: _parse(arguments), run, table, name="cycle")
    return result if isinstance(result, int) else 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The result: for each context and arm the median step, its interval, and the ratio to plain decoding's."""
    target = load_target(options.model, device=options.device, dtype=options.dtype)
    pipeline = load_pipeline(target, draft=None if options.draft == NAME else options.draft, vocab=options.vocab)
    if options.draft == NAME:
        pipeline = with_untrained_head(pipeline, k=options.k or DEFAULT_K, seed=options.seed)
    tree = TreeConfig(depth=options.depth, beam=options.beam, nodes=options.nodes)
    longest = int(target.config.max_position_embeddings) - options.tokens
    if max(options.contexts) > longest:
        raise FrspecError(f"a context of {max(options.contexts):,} does not fit: the model has room for {longest:,}.")
    return {
        "schema": SCHEMA,
        "environment": environment(),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        | {"dtype": str(target.dtype).removeprefix("torch."), "device": str(target.device)},
        "attention": {"frspec": "SDPA, grouped heads not expanded", "transformers": ATTENTION},
        "contexts": {
            str(length): _measure(arms(pipeline, tree, options.k), context(target, length), options)
            for length in options.contexts
        },
    }


def arms(pipeline: Pipeline, tree: TreeConfig, k: int | None) -> dict[str, Arm]:
    """Plain decoding first, FR-Spec if a head and a subset are available, and transformers with both of its caches."""

    def ours(engine: Engine) -> Arm:
        def decode(ids: Sequence[int], tokens: int) -> tuple[list[int], list[float]]:
            text = time_text(engine, ids, tokens)
            return text.token_ids, text.cycle

        return Arm(decode)

    def theirs(baseline: TransformersBaseline) -> Arm:
        def decode(ids: Sequence[int], tokens: int) -> tuple[list[int], list[float]]:
            generation = baseline.complete(ids, max_new_tokens=tokens, ignore_eos=True)
            return generation.token_ids, baseline.token_seconds

        return Arm(decode)

    by_name = {"ar": ours(pipeline.engine("ar", tree=tree))}
    if pipeline.default_method() == "frspec":
        by_name["frspec"] = ours(pipeline.engine("frspec", tree=tree, k=k))
    for cache in ("dynamic", "static"):
        by_name[f"transformers, {cache} cache"] = theirs(TransformersBaseline(pipeline.target, cache=cache))
    return by_name


def context(target: Target, length: int) -> list[int]:
    """`length` token ids of plain text; which text makes no difference to the cost of a step."""
    ids: list[int] = []
    while len(ids) < length:
        ids += target.prompt_ids("\n".join(PROMPTS) + "\n", raw=True)
    return ids[:length]


def _measure(by_name: dict[str, Arm], ids: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
    for arm in by_name.values():
        arm.decode(ids, options.tokens)
    for number in range(options.rounds):
        for arm in rotated(list(by_name.values()), number):
            token_ids, seconds = arm.decode(ids, options.tokens)
            arm.texts.append(token_ids)
            arm.rounds.append(seconds)
    return {name: _figures(arm, by_name["ar"], options.seed) for name, arm in by_name.items()}


def _figures(arm: Arm, plain: Arm, seed: int) -> dict[str, Any]:
    steps = sum(map(len, arm.rounds))
    tokens = sum(len(text) - 1 for text in arm.texts)
    step = {name: value * 1000 for name, value in median(arm.rounds, seed=seed).items()}
    return {
        "steps": steps,
        "step_ms": step,
        "tokens_per_step": tokens / steps,
        "ms_per_token": 1000 * sum(map(sum, arm.rounds)) / tokens,
        "step_to_plain": median_ratio(arm.rounds, plain.rounds, seed=seed),
        "equal_ids": sum(own == expected for own, expected in zip(arm.texts, plain.texts, strict=True)),
        "texts": len(arm.texts),
    }


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = [
        "| context | arm | ms a step (95 %) | step / plain step (95 %) | tokens a step | ms a token | ids as plain |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for length, by_name in result["contexts"].items():
        for name, figures in by_name.items():
            step, ratio = (
                f"{each['value']:.2f} ({each['low']:.2f} to {each['high']:.2f})"
                for each in (figures["step_ms"], figures["step_to_plain"])
            )
            lines.append(
                f"| {int(length):,} | {name} | {step} | {ratio} | {figures['tokens_per_step']:.2f} "
                f"| {figures['ms_per_token']:.2f} | {figures['equal_ids']} of {figures['texts']} |"
            )
    return "\n".join(lines) + "\n"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--draft", help=f"draft head; {NAME}: an untrained one. Default: what ships for the model")
    parser.add_argument("--vocab", help="vocabulary subset. Default: what ships for the model")
    parser.add_argument("--k", type=int, help="use the subset's first K tokens")
    tree = TreeConfig()
    parser.add_argument("--depth", type=int, default=tree.depth)
    parser.add_argument("--beam", type=int, default=tree.beam)
    parser.add_argument("--nodes", type=int, default=tree.nodes)
    parser.add_argument("--contexts", type=_numbers, default=[100, 1000, 4000], help="tokens, separated by commas")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens of each text")
    parser.add_argument("--rounds", type=int, default=5, help="texts that each arm decodes at each context")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/bench-cycle"))
    options = parser.parse_args(arguments)
    if options.tokens < 2 or options.rounds < 1 or min(options.contexts) < 1:
        raise UsageError("--tokens must be 2 or more, --rounds and --contexts 1 or more.")
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
