"""A benchmark run: prompts x methods, interleaved, into one JSON with everything that was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from frspec_cli import schema
from frspec_cli.answers.batched_decode import TokenizedPrompt
from frspec_cli.bench.baseline import LOOKUP_TOKENS, TransformersBaseline
from frspec_cli.bench.comparison import Runs, by_arm, null_figures, repetition, speedups, total_seconds
from frspec_cli.bench.measure import RESTART, Arm, Measurement, Totals, measure_prompt, read_run, warm_up
from frspec_cli.bench.options import BASELINE, BASELINES, BenchOptions
from frspec_cli.bench.prompt_run import PromptRun, run_inputs, settings
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.generation import Generation
from frspec_cli.decoding.options import Method
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.errors import ArtifactError
from frspec_cli.progress import Callbacks
from frspec_cli.verification.identity import first_difference

NULL = "null"
"""The arm that is the first one once more."""


def make_arms(pipeline: Pipeline, options: BenchOptions) -> list[Arm]:
    """The arms in order. Several k give `frspec@K` each, the first of which is `frspec` too in the summary."""
    arms: list[Arm] = []
    for name in options.methods:
        if name in BASELINES:
            static, lookup = name == "transformers-static", LOOKUP_TOKENS if name == "transformers-lookup" else 0
            cache = "static" if static else "dynamic"
            arms.append(Arm(name, TransformersBaseline(pipeline.target, cache=cache, lookup=lookup)))
            continue
        method: Method = name  # type: ignore[assignment]
        frspec = method == "frspec"
        for k in options.ks if frspec and options.ks else (None,):
            slots = options.context_slots if frspec else 0
            engine = pipeline.engine(method, tree=options.tree_of(method), k=k, context_slots=slots)
            label = f"frspec@{k}" if frspec and len(options.ks) > 1 else name
            arms.append(Arm(label, engine, engine.drafter.k))
    return arms


def run_suite(
    pipeline: Pipeline,
    options: BenchOptions,
    prompts: Sequence[TokenizedPrompt],
    *,
    out: Path,
    suite: str = "",
    restart: bool = False,
    force: bool = True,
    choices: Mapping[str, Any] | None = None,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Measures every prompt with every method, writes the result to `out` and returns it. A stopped run resumes.

    Each prompt is measured `options.runs` times; the first method is measured once more each time, as the null (`null` in
    the result: what the machine makes of no difference at all).
    A prompt that fails with any method is left out of all figures, so that they stay over the same prompts; it is counted
    under `failed` and named with its reason under `failures`.
    suite: its name, for the record.
    choices: by method, why its dtype and tree were chosen; the result records it.
    callbacks: `begin` gets the number of prompts, `finished` one prompt at a time.
    Raises `FrspecError` if every prompt fails, or if a stopped run was begun with other inputs.
    """
    callbacks = callbacks or Callbacks()
    arms = make_arms(pipeline, options)
    timed = [*arms, Arm(NULL, arms[0].decoder)]
    callbacks.begin(len(prompts))

    def warm_up_all() -> None:
        ids, sampling = [prompt.ids for prompt in prompts], options.sampling(0)
        for arm in arms:
            warm_up(arm.decoder, ids, max_new_tokens=options.max_new_tokens, sampling=sampling)

    def measure(index: int) -> list[list[dict[str, Any]]]:
        runs = [
            measure_prompt(
                timed,
                prompts[index].ids,
                turn=index * options.runs + run,
                max_new_tokens=options.max_new_tokens,
                sampling=options.sampling(run),
                ignore_eos=options.ignore_eos,
            )
            for run in range(options.runs)
        ]
        return [[each.as_json() for each in run] for run in runs]

    inputs = run_inputs(pipeline, options, prompts)
    with PromptRun.opened(out, inputs, prompts, restart=restart, force=force, callbacks=callbacks) as run:
        records = run.measure("prompt", range(len(prompts)), measure, prepare=warm_up_all)
        names = [arm.name for arm in timed]
        measured = {
            index: _runs(record, options.runs, run.path("prompt", index), names) for index, record in records.items()
        }
        result = settings(pipeline, options)
        result["options"]["suite"] = suite
        texts = by_arm(measured, names)
        again, sources = texts.pop(NULL), [prompts[index].source for index in measured]
        result |= {
            "choices": dict(choices or {}),
            "prompts": [
                _record(prompts[index], number, each)
                for index, runs in measured.items()
                for number, group in enumerate(runs)
                for each in group
                if each.arm != NULL
            ],
            "failures": run.failures,
            "null": null_figures(arms[0].name, texts[arms[0].name], again, seed=options.seed),
            "repetition": repetition(texts[arms[0].name], sources),
            "summary": _summary(pipeline, options, arms, prompts, measured, texts, failed=len(run.failures)),
        }
        run.finish(out, result)
    return result


def _runs(records: Any, count: int, file: Path, arms: Sequence[str]) -> list[list[Measurement]]:
    """A prompt's measurements by run. Raises `ArtifactError` if `file`, from which they are, holds anything else."""
    if not isinstance(records, list) or len(records) != count:
        raise ArtifactError(file, "value", f"a list of {count} runs", found=schema.shown(records), hint=RESTART)
    return [read_run(each, file, arms) for each in records]


def _record(prompt: TokenizedPrompt, run: int, measurement: Measurement) -> dict[str, Any]:
    generation = measurement.generation
    return {
        "id": prompt.id,
        "category": prompt.source,
        "method": measurement.arm,
        "run": run,
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
    measured: Iterable[int],
    texts: Mapping[str, Runs],
    *,
    failed: int,
) -> dict[str, Any]:
    """The figures of every arm. measured: the indices of the prompts that `texts` are of."""
    plain = {name: texts[name] for name in ("ar", BASELINE, "transformers-static") if name in texts}
    base = min(plain, key=lambda name: total_seconds(plain[name]), default=None)
    names = [prompts[index].id for index in measured for _ in range(options.runs)]
    summary: dict[str, Any] = {}
    for arm in arms:
        totals = Totals.of(chain(*texts[arm.name]))
        drafter = arm.decoder.drafter if isinstance(arm.decoder, Engine) else None
        comparable = "ar" in texts and (drafter is not None or not options.temperature)
        summary[arm.name] = {
            "k": arm.k or None,
            "draft_lm_head": None if drafter is None else pipeline.draft_lm_head(drafter),
            "tokens_per_second": totals.tokens_per_second,
            "decode_tokens_per_second": totals.decode_tokens_per_second,
            "acceptance_length": totals.acceptance_length,
            **speedups(texts, arm.name, base, seed=options.seed),
            "identical": _identical(list(chain(*texts[arm.name])), list(chain(*texts["ar"])), names)
            if comparable
            else None,
            "failed": failed,
            "seconds": totals.seconds,
            "draft_seconds_per_cycle": totals.draft_seconds_per_cycle,
        }
    first = next((arm.name for arm in arms if arm.name.startswith("frspec@")), None)
    return summary | ({"frspec": summary[first]} if first else {})


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
