"""A benchmark run: prompts x methods, interleaved, into one JSON with everything that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frspec_cli.answers.batched_decode import TokenizedPrompt
from frspec_cli.bench.baseline import TransformersBaseline
from frspec_cli.bench.measure import Arm, Measurement, Totals, measure_prompt, warm_up
from frspec_cli.bench.options import BASELINE, BenchOptions
from frspec_cli.bench.prompt_run import PromptRun, run_inputs, settings
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.generation import Generation
from frspec_cli.decoding.options import Method
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.progress import Callbacks
from frspec_cli.statistics import speedup
from frspec_cli.verification.identity import first_difference


def make_arms(pipeline: Pipeline, options: BenchOptions) -> list[Arm]:
    """The arms in order. Several k give `frspec@K` each, the first of which is `frspec` too in the summary."""
    arms: list[Arm] = []
    for name in options.methods:
        if name == BASELINE:
            arms.append(Arm(name, TransformersBaseline(pipeline.target)))
            continue
        method: Method = name  # type: ignore[assignment]
        frspec = method == "frspec"
        for k in options.ks if frspec and options.ks else (None,):
            slots = options.context_slots if frspec else 0
            engine = pipeline.engine(method, tree=options.tree, k=k, context_slots=slots)
            label = f"frspec@{k}" if frspec and len(options.ks) > 1 else name
            arms.append(Arm(label, engine, engine.drafter.k))
    return arms


def run_suite(
    pipeline: Pipeline,
    options: BenchOptions,
    prompts: Sequence[TokenizedPrompt],
    *,
    out: Path,
    restart: bool = False,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Measures every prompt with every method, writes the result to `out` and returns it. A stopped run resumes.

    A prompt that fails with any method is left out of all figures, so that they stay over the same prompts; it is counted
    under `failed` and named with its reason under `failures`.
    callbacks: `begin` gets the number of prompts, `finished` one prompt at a time.
    Raises `FrspecError` if every prompt fails, or if a stopped run was begun with other inputs.
    """
    callbacks = callbacks or Callbacks()
    arms = make_arms(pipeline, options)
    callbacks.begin(len(prompts))

    def warm_up_all() -> None:
        for arm in arms:
            warm_up(arm.decoder, [prompt.ids for prompt in prompts], max_new_tokens=options.max_new_tokens)

    def measure(index: int) -> list[dict[str, Any]]:
        measurements = measure_prompt(
            arms,
            prompts[index].ids,
            turn=index,
            max_new_tokens=options.max_new_tokens,
            ignore_eos=options.ignore_eos,
        )
        return [each.as_json() for each in measurements]

    inputs = run_inputs(pipeline, options, prompts)
    with PromptRun.opened(out, inputs, prompts, restart=restart, callbacks=callbacks) as run:
        records = run.measure("prompt", range(len(prompts)), measure, prepare=warm_up_all)
        measured = {index: [Measurement.read(each) for each in record] for index, record in records.items()}
        result = settings(pipeline, options) | {
            "prompts": [_record(prompts[index], each) for index, group in measured.items() for each in group],
            "failures": run.failures,
            "summary": _summary(pipeline, options, arms, prompts, measured, failed=len(run.failures)),
        }
        run.finish(out, result)
    return result


def _record(prompt: TokenizedPrompt, measurement: Measurement) -> dict[str, Any]:
    generation = measurement.generation
    return {
        "id": prompt.id,
        "category": prompt.source,
        "method": measurement.arm,
        "prompt_tokens": generation.prompt_tokens,
        "token_ids": generation.token_ids,
        "cycles": generation.cycles,
        "accepted": generation.accepted,
        "seconds": {name: round(value, 6) for name, value in generation.seconds.items()},
    }


def _summary(
    pipeline: Pipeline,
    options: BenchOptions,
    arms: Sequence[Arm],
    prompts: Sequence[TokenizedPrompt],
    measured: Mapping[int, Sequence[Measurement]],
    *,
    failed: int,
) -> dict[str, Any]:
    """The figures of every arm. measured: by the prompt's index, a measurement of every arm."""
    by_arm: dict[str, list[Generation]] = {arm.name: [] for arm in arms}
    for group in measured.values():
        for measurement in group:
            by_arm[measurement.arm].append(measurement.generation)
    plain = {name: by_arm[name] for name in ("ar", BASELINE) if name in by_arm}
    base = min(plain, key=lambda name: _seconds(plain[name]), default=None)
    prompt_names = [prompts[index].id for index in measured]
    summary: dict[str, Any] = {}
    for arm in arms:
        texts = by_arm[arm.name]
        totals = Totals.of(texts)
        drafter = arm.decoder.drafter if isinstance(arm.decoder, Engine) else None
        summary[arm.name] = {
            "k": arm.k or None,
            "draft_lm_head": None if drafter is None else pipeline.draft_lm_head(drafter),
            "tokens_per_second": totals.tokens_per_second,
            "decode_tokens_per_second": totals.decode_tokens_per_second,
            "acceptance_length": totals.acceptance_length,
            "speedup": None if base is None else {**_speedup(texts, plain[base], seed=options.seed), "against": base},
            "identical": _identical(texts, plain["ar"], prompt_names) if "ar" in plain else None,
            "failed": failed,
            "seconds": totals.seconds,
            "draft_seconds_per_cycle": totals.draft_seconds_per_cycle,
        }
    first = next((arm.name for arm in arms if arm.name.startswith("frspec@")), None)
    return summary | ({"frspec": summary[first]} if first else {})


def _speedup(texts: Sequence[Generation], base: Sequence[Generation], *, seed: int) -> dict[str, float]:
    return speedup(
        [text.new_tokens for text in texts],
        [text.seconds["total"] for text in texts],
        [text.new_tokens for text in base],
        [text.seconds["total"] for text in base],
        seed=seed,
    )


def _identical(texts: Sequence[Generation], plain: Sequence[Generation], prompt_names: Sequence[str]) -> dict[str, Any]:
    """The number of prompts whose ids equal plain decoding's, and where each of the others first differs.

    Item i of each list belongs to prompt i: names may occur twice in a suite.
    """
    differences = []
    for text, reference, name in zip(texts, plain, prompt_names, strict=True):
        position = first_difference(reference.token_ids, text.token_ids)
        if position is not None:
            differences.append({"prompt": name, "position": position})
    return {"prompts": len(texts), "equal": len(texts) - len(differences), "differences": differences}


def _seconds(texts: Sequence[Generation]) -> float:
    return sum(text.seconds["total"] for text in texts)
