"""What a card makes of frspec, in one command of at most nine minutes that downloads nothing.

    python -m benchmarks.gpu_day --out out/gpu-day
    python -m benchmarks.gpu_day --shape tiny --device cpu     (to see that it runs)

A target of Llama-3-8B's shape and an EAGLE head, both of random weights: the cost of a step depends on shapes alone. It
proves identity (a tiny model in float64; the large one in bfloat16 by the rule), names the attention kernels, and measures
plain decoding, EAGLE-2 and FR-Spec at several sizes, eager and compiled, at two lengths of context. With the acceptance
lengths of the FR-Spec paper the cycles become tokens per second, shown beside the paper's. OUT/gpu-day.json is written
again after every stage; what there was no time for is named in it. `frspec tune --costs OUT/gpu-day.json` reads it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median as middle
from typing import Any

import torch

from benchmarks.command import run_and_show
from benchmarks.gpu_models import SHAPES, make_pipeline, random_ids
from frspec_cli import storage
from frspec_cli.bench.measure import rotated, warm_up
from frspec_cli.bench.profile import time_text
from frspec_cli.decoding.compiling import compiler_for
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import Method, TreeConfig
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.decoding.state import Workspace
from frspec_cli.environment import environment, machine
from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.models.target import resolve_device
from frspec_cli.replay.options import parse_tree
from frspec_cli.statistics import median
from frspec_cli.tuning.costs import KIND, find_costs, read_costs
from frspec_cli.tuning.costs import SCHEMA as COSTS_SCHEMA
from frspec_cli.tuning.measure import measure_costs, time_heads
from frspec_cli.verification.identity import first_difference, rounding
from frspec_cli.verification.report import explained_margin

SCHEMA = 1
PAPER = {"fr-spec-8b": {"ar": 89.11, 128256: 180.99, 65536: 196.86, 32768: 201.87, 16384: 196.69, 8192: 185.98}}
"""Tokens per second of Llama-3-8B in the paper (arXiv 2502.14856), mean of seven tasks, by rows of the draft's LM head."""


@dataclass
class Day:
    """One run: its options, when it began, and the result so far."""

    options: argparse.Namespace
    begun: float = field(default_factory=time.monotonic)
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.options.seconds - (time.monotonic() - self.begun)

    def stage(self, name: str, work: Callable[[], Any]) -> Any:
        """Runs and records a stage, and writes the file; skips it if there is no time, records it if memory runs out."""
        if self.left <= 0:
            self.result["skipped"].append({"stage": name, "reason": "no time was left"})
            return None
        sys.stderr.write(f"{name} ({self.left:.0f} s left)\n")
        begin = time.monotonic()
        try:
            value = work()
        except (torch.OutOfMemoryError, FrspecError) as error:
            self.result["skipped"].append({"stage": name, "reason": str(error).splitlines()[0]})
            value = None
        else:
            self.result["stages"][name] = {"seconds": time.monotonic() - begin, **value}
        storage.write_json(self.options.out / "gpu-day.json", self.result)
        return value


def main(arguments: list[str] | None = None) -> int:
    """Measures, shows the table, writes `gpu-day.json` and `gpu-day.md`; exit codes as `frspec` has them."""
    result = run_and_show(lambda: _parse(arguments), run, table, name="gpu-day")
    if isinstance(result, int):
        return result
    exact = result["stages"].get("identity, float64", {"methods": {}})["methods"]
    return 0 if exact and all(each["identical"] for each in exact.values()) else 3


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The result, stage by stage: the most telling first."""
    day = Day(options)
    day.result = {
        "schema": SCHEMA,
        "kind": "gpu-day",
        "environment": environment(),
        "options": {
            name: value if isinstance(value, (str, int, float, list, type(None))) else str(value)
            for name, value in vars(options).items()
        },
        "stages": {},
        "skipped": [],
        "predicted": [],
        "costs": None,
    }
    day.stage("identity, float64", lambda: identity("tiny", torch.float64, options))
    first, *others = options.vocabularies
    for number, vocabulary in enumerate((first, *others)):
        _vocabulary(day, vocabulary, thorough=number == 0)
    day.result["predicted"] = predicted(day.result, first)
    return day.result


def _vocabulary(day: Day, vocabulary: int, *, thorough: bool) -> None:
    """The stages of one target. thorough: all of them; else the steps at the first context."""
    options, device = day.options, resolve_device(day.options.device)
    if day.left <= 0:
        day.result["skipped"].append({"stage": f"V {vocabulary:,}", "reason": "no time was left"})
        return
    if device.type == "cuda":  # what the last target and its graphs held
        torch._dynamo.reset()
        torch.cuda.empty_cache()
    shape = replace(SHAPES[options.shape], vocabulary=vocabulary)
    pipeline = make_pipeline(shape, dtype=torch.bfloat16, device=device, k=max(options.ks))
    name, contexts = f"V {vocabulary:,}", options.contexts if thorough else options.contexts[:1]
    if thorough:
        day.stage(f"{name}, memory", lambda: memory(pipeline, max(contexts)))
        day.stage(f"{name}, attention", lambda: attention(pipeline, options))
    day.stage(f"{name}, eager", lambda: steps(pipeline, options, contexts))
    if thorough:
        day.stage("identity, bfloat16", lambda: identity(pipeline, torch.bfloat16, options))
        measured = day.stage(f"{name}, costs", lambda: {"costs": costs(pipeline, options)})
        if measured is not None:
            day.result["costs"] = _cost_file(options, [measured["costs"]])
    compiled = replace(pipeline, compiler=compiler_for(device)) if options.compile else None
    for context in contexts if compiled is not None else ():
        stage = f"{name}, compiled, context {context:,}"
        found = day.stage(stage, lambda context=context: steps(compiled, options, [context], few=True))
        if found is not None and thorough and context == contexts[0]:
            heads = time_heads(pipeline, [*options.ks, vocabulary], (1, options.tree.beam))
            day.result["costs"] = _cost_file(options, [_of_one_tree(found, heads, options, vocabulary, context)])


def identity(of: str | Pipeline, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Any]:
    """Plain decoding's ids against every method's; in bfloat16 `frspec verify`'s rule says what a near tie is."""
    device = resolve_device(options.device)
    pipeline = make_pipeline(SHAPES[of], dtype=dtype, device=device, k=32) if isinstance(of, str) else of
    prompt, plain = random_ids(pipeline, 64), pipeline.engine("ar", tree=options.tree)
    cycles = list(plain.generate(prompt, max_new_tokens=32, ignore_eos=True))
    ids = [token for cycle in cycles for token in cycle.tokens]
    top = [cycle.scores[0].topk(2) for cycle in cycles if cycle.scores is not None]
    methods: dict[str, Any] = {}
    names: tuple[Method, ...] = ("eagle", "frspec", "lookup")
    for method in names:
        engine = pipeline.engine(method, tree=options.tree)
        position = first_difference(ids, engine.complete(prompt, max_new_tokens=32, ignore_eos=True).token_ids)
        methods[method] = {"identical": position is None, "position": position}
        if position is not None:
            nodes, depth = engine.drafter.nodes, engine.drafter.depth
            largest = rounding(plain, prompt, ids, top, nodes=nodes, depth=depth)
            margin = float(top[position].values[0] - top[position].values[1])
            methods[method] |= {"margin": margin, "rounding": largest, "near_tie": margin <= explained_margin(largest)}
    return {"dtype": str(dtype).removeprefix("torch."), "tokens": len(ids), "methods": methods}


def memory(pipeline: Pipeline, context: int) -> dict[str, Any]:
    """Bytes of the target, of a slot of its cache, and the peak of a text of `context` tokens."""
    target, device = pipeline.target, pipeline.target.device
    weights = sum(each.numel() * each.element_size() for each in target.model.parameters())
    engine = pipeline.engine("frspec", tree=TreeConfig())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    engine.complete(random_ids(pipeline, context), max_new_tokens=4, ignore_eos=True)
    slots = 64
    buffer = Workspace.of(target, slots).buffer.data
    return {
        "target_bytes": weights,
        "slot_bytes": buffer.numel() * buffer.element_size() // slots,
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        "context": context,
    }


def attention(pipeline: Pipeline, options: argparse.Namespace) -> dict[str, Any]:
    """The attention operations that torch called: for the prompt, a token of plain decoding, and a cycle."""
    prompt = random_ids(pipeline, options.contexts[0])

    def seen(engine: Engine, new_tokens: int) -> list[str]:
        engine.complete(prompt, max_new_tokens=new_tokens, ignore_eos=True)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            engine.complete(prompt, max_new_tokens=new_tokens, ignore_eos=True)
        names = {event.key for event in profile.key_averages() if "attention" in event.key}
        return sorted(name for name in names if name != "aten::scaled_dot_product_attention")

    plain, drafted = (pipeline.engine(method, tree=options.tree) for method in ("ar", "frspec"))
    return {"prompt": seen(plain, 1), "plain": seen(plain, 3), "frspec": seen(drafted, 3)}


def steps(
    pipeline: Pipeline, options: argparse.Namespace, contexts: Sequence[int], *, few: bool = False
) -> dict[str, Any]:
    """ms of a token of plain decoding, and of EAGLE-2's and FR-Spec's cycle at the tree, arms taking turns.

    few: the full LM head and the middle size only; each arm compiles its own steps.
    """
    ks = [options.ks[len(options.ks) // 2]] if few else options.ks
    engines = {"ar": pipeline.engine("ar", tree=options.tree), "eagle": pipeline.engine("eagle", tree=options.tree)}
    engines |= {f"frspec@{k}": pipeline.engine("frspec", tree=options.tree, k=k) for k in ks}
    found: dict[str, Any] = {}
    for context in contexts:
        prompt = random_ids(pipeline, context)
        for engine in engines.values():
            warm_up(engine, [prompt], max_new_tokens=options.tokens)
        rounds: dict[str, list[Any]] = {name: [] for name in engines}
        for number in range(options.rounds):
            for name in rotated(list(engines), number):
                rounds[name].append(time_text(engines[name], prompt, options.tokens))
        found[str(context)] = {
            name: {
                "k": engines[name].drafter.k or None,
                "cycle_ms": _ms([text.cycle for text in texts]),
                "draft_ms": _ms([text.draft for text in texts]),
            }
            for name, texts in rounds.items()
        }
    return {"contexts": found}


def costs(pipeline: Pipeline, options: argparse.Namespace) -> dict[str, Any]:
    """The costs of uncompiled steps over 1 to 64 rows, as `frspec tune` measures them."""
    middle_k = options.ks[len(options.ks) // 2]
    return measure_costs(
        pipeline,
        random_ids(pipeline, max(options.contexts)),
        method="frspec",
        ks=[middle_k, *(k for k in options.ks if k != middle_k)],
        contexts=options.contexts,
        rounds=min(2, options.rounds),
    )


def _of_one_tree(
    found: dict[str, Any],
    heads: dict[tuple[int, int], float],
    options: argparse.Namespace,
    vocabulary: int,
    context: int,
) -> dict[str, Any]:
    """The costs of compiled steps, of which whole cycles of one tree are known: the draft's time without its LM heads is
    shared out evenly over its levels and the block of accepted rows."""
    arms, tree = found["contexts"][str(context)], options.tree
    shares, rest = [], []
    for name, arm in arms.items():
        if name == "ar":
            continue
        k = vocabulary if name == "eagle" else arm["k"]
        lm_head = heads[k, 1] + (tree.depth - 1) * heads[k, tree.beam]
        shares.append(max(0.0, arm["draft_ms"]["value"] - lm_head) / tree.depth)
        rest.append(arm["cycle_ms"]["value"] - arm["draft_ms"]["value"])
    plain = arms["ar"]["cycle_ms"]["value"]
    return {
        "dtype": "bfloat16",
        "k": vocabulary,
        "plain": [{"context": context, "ms": plain}],
        "target": [
            {"context": context, "rows": 1, "ms": plain},
            {"context": context, "rows": tree.nodes, "ms": middle(rest)},
        ],
        "level": [{"rows": tree.beam, "ms": middle(shares)}],
        "head": [{"k": k, "rows": rows, "ms": ms} for (k, rows), ms in heads.items()],
        "cycle": {"ms": middle(shares)},
        "compiled": True,
        "estimated": True,
    }


def _cost_file(options: argparse.Namespace, entries: list[dict[str, Any]]) -> dict[str, Any]:
    paper = read_costs(find_costs("fr-spec-8b"))
    return {
        "kind": KIND,
        "schema": COSTS_SCHEMA,
        "machine": machine(),
        "source": "measured by make gpu-day on random weights; acceptance lengths of the FR-Spec paper",
        "model": f"{options.shape}, random weights",
        "torch": torch.__version__,
        "costs": entries,
        "acceptance": [point.model_dump() for point in paper.acceptance],
    }


def predicted(result: dict[str, Any], vocabulary: int) -> list[dict[str, Any]]:
    """Tokens per second at the paper's acceptance lengths, from the measured cycles, beside the paper's own."""
    lengths = {point.k: point.length for point in read_costs(find_costs("fr-spec-8b")).acceptance}
    published = PAPER["fr-spec-8b"]
    rows = []
    for stage, found in result["stages"].items():
        if not stage.startswith(f"V {vocabulary:,}, ") or "contexts" not in found:
            continue
        for context, arms in found["contexts"].items():
            for name, arm in arms.items():
                k = vocabulary if name == "eagle" else arm["k"]
                length = 1.0 if name == "ar" else lengths.get(k)
                ms = arm["cycle_ms"]["value"]
                rows.append(
                    {
                        "compiled": "compiled" in stage,
                        "context": int(context),
                        "arm": name,
                        "k": arm["k"],
                        "acceptance_length": length,
                        "cycle_ms": ms,
                        "draft_ms": arm["draft_ms"]["value"],
                        "tokens_per_second": None if length is None else 1000 * length / ms,
                        "paper": published.get("ar" if name == "ar" else k),
                    }
                )
    return rows


def table(result: dict[str, Any]) -> str:
    """The predictions as a Markdown table, and what was skipped."""
    lines = [
        "| steps | context | arm | ms a cycle | of it draft | acceptance (paper) | tokens/s predicted | to plain | paper |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    plain = {
        (row["compiled"], row["context"]): row["tokens_per_second"] for row in result["predicted"] if row["arm"] == "ar"
    }
    for row in result["predicted"]:
        rate, base = row["tokens_per_second"], plain[row["compiled"], row["context"]]
        lines.append(
            f"| {'compiled' if row['compiled'] else 'eager'} | {row['context']:,} | {row['arm']} | {row['cycle_ms']:.2f} "
            f"| {row['draft_ms']:.2f} | {_number(row['acceptance_length'], 2)} | {_number(rate, 1)} "
            f"| {'-' if rate is None else f'{rate / base:.2f}x'} | {_number(row['paper'], 1)} |"
        )
    lines += ["", *(f"skipped: {each['stage']}: {each['reason']}" for each in result["skipped"])]
    return "\n".join(lines).rstrip() + "\n"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _ms(rounds: list[list[float]]) -> dict[str, float]:
    return {name: 1000 * value for name, value in median(rounds, seed=0).items()}


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_day", description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="llama3-8b")
    parser.add_argument("--vocabularies", type=_numbers, help="rows of the LM head; the first is measured thoroughly")
    parser.add_argument("--ks", type=_numbers, help="rows of FR-Spec's draft LM head")
    parser.add_argument("--contexts", type=_numbers, help="tokens of text behind which steps are measured")
    parser.add_argument("--tree", type=parse_tree, default=TreeConfig(depth=6, beam=10, nodes=60))
    parser.add_argument("--tokens", type=int, default=12, help="new tokens of each text")
    parser.add_argument("--rounds", type=int, default=3, help="texts that each arm decodes at each context")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out the compiled steps")
    parser.add_argument("--seconds", type=float, default=480.0, help="no stage begins after so many")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, default=Path("out/gpu-day"))
    options = parser.parse_args(arguments)
    tiny = options.shape == "tiny"
    options.vocabularies = options.vocabularies or ([320, 400] if tiny else [128_256, 152_064])
    options.ks = options.ks or ([64, 128] if tiny else [8192, 16_384, 32_768, 65_536])
    options.contexts = options.contexts or ([24, 48] if tiny else [1024, 8192])
    if resolve_device(options.device).type != "cuda" and not tiny:
        raise UsageError("a target of 8 billion weights needs a CUDA device; --shape tiny runs anywhere.")
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
