"""The best predicted ways to decode, and plain decoding, measured side by side in the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from frspec_cli import schema, storage
from frspec_cli.answers.records import Answer
from frspec_cli.bench.comparison import Runs, by_arm, ratio, total_seconds
from frspec_cli.bench.measure import Arm, Totals, measure_prompt, read_run, warm_up
from frspec_cli.decoding.options import Method, TreeConfig
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.progress import Callbacks
from frspec_cli.resume import RunFolder
from frspec_cli.tuning.options import TuneOptions
from frspec_cli.tuning.predict import Way


def measure_ways(
    pipeline: Callable[[str], Pipeline],
    ways: Sequence[Way],
    answers: Sequence[Answer],
    options: TuneOptions,
    folder: RunFolder,
    callbacks: Callbacks,
) -> list[dict[str, Any]]:
    """The records of the ways (see `tune_file.WayRecord`), measured on the first answers' prompts, fastest first.

    pipeline: dtype -> pipeline. Each prompt's measurements are kept in the folder.
    """
    arms = [_arm(pipeline(way.dtype), way) for way in ways]
    prompts = [answer.ids[: answer.prompt_length].tolist() for answer in answers[: options.prompts]]
    paths = [folder.path(f"prompt-{index:06d}.json") for index in range(len(prompts))]
    callbacks.begin(len(prompts))
    if not all(path.is_file() for path in paths):
        callbacks.say(f"measuring {len(arms)} ways to decode on {len(prompts)} prompts")
        for arm in arms:
            warm_up(arm.decoder, prompts, max_new_tokens=options.max_new_tokens)
    for index, (ids, path) in enumerate(zip(prompts, paths, strict=True)):
        if not path.is_file():
            measured = measure_prompt(arms, ids, turn=index, max_new_tokens=options.max_new_tokens)
            storage.write_json(path, [each.as_json() for each in measured])
        callbacks.finished(1)
    names = [arm.name for arm in arms]
    runs = {index: [read_run(schema.read_json(path), path, names)] for index, path in enumerate(paths)}
    texts = by_arm(runs, names)
    plain = [texts[str(way)] for way in ways if way.tree is None]
    base = min(plain, key=total_seconds)
    records = [record(way, measured=_measured(texts[str(way)], base, options.seed)) for way in ways]
    return sorted(records, key=lambda each: -each["measured"]["tokens_per_second"])


def record(way: Way, *, measured: dict[str, Any] | None = None) -> dict[str, Any]:
    """A way as `tune_file.WayRecord` reads it."""
    tree = way.tree
    return {
        "method": way.method,
        "dtype": way.dtype,
        "k": way.k,
        "depth": tree and tree.depth,
        "beam": tree and tree.beam,
        "nodes": tree and tree.nodes,
        "predicted": way.rate,
        "acceptance_length": way.length,
        "step_ms": way.step_ms,
        "measured": measured,
    }


def _arm(pipeline: Pipeline, way: Way) -> Arm:
    k = way.k if way.method == "frspec" else None
    engine = pipeline.engine(cast(Method, way.method), tree=way.tree or TreeConfig(), k=k)
    return Arm(str(way), engine, engine.drafter.k)


def _measured(texts: Runs, plain: Runs, seed: int) -> dict[str, Any]:
    """The fields of `tune_file.Measured`. plain: the faster plain decoding's texts."""
    totals = Totals.of([text for runs in texts for text in runs])
    return {
        "tokens_per_second": totals.tokens_per_second,
        "decode_tokens_per_second": totals.decode_tokens_per_second,
        "acceptance_length": totals.acceptance_length,
        "speedup": ratio(texts, plain, seed=seed),
    }
