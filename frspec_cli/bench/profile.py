"""Where the time of one cycle goes, for every method at the same tree.

Two passes over the same prompts, methods interleaved in both. The first times the methods as they are: the clock is read
between cycles, and the engine's own timing gives the draft's part; nothing waits for the device. The second times
the parts inside a cycle, in engines of its own: on a GPU it waits for the device at both ends of each part, so its shares
are those of the work, and its total is not the method's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from frspec_cli import schema
from frspec_cli.answers.batched_decode import TokenizedPrompt
from frspec_cli.bench.measure import RESTART, rotated, warm_up
from frspec_cli.bench.options import ProfileOptions
from frspec_cli.bench.prompt_run import PromptRun, run_inputs, settings
from frspec_cli.bench.suite import make_arms
from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.generation import Generation
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.errors import ArtifactError
from frspec_cli.progress import Callbacks
from frspec_cli.statistics import median, median_ratio

Part = Literal["target", "draft layer", "draft LM head", "tree operations", "rest"]
PARTS: tuple[str, ...] = get_args(Part)
TARGET, LAYER, LM_HEAD, TREE, REST = PARTS
"""LM head: with the top-k over its rows. Tree operations: what else drafting does (growth, rerank). Rest: choosing, walking,
moving rows, the read by the host."""

MOST_ROUNDS_INSIDE = 8
"""The most prompts that the second pass takes: shares need fewer than ratios."""


def run_profile(
    pipeline: Pipeline,
    options: ProfileOptions,
    prompts: Sequence[TokenizedPrompt],
    *,
    out: Path,
    restart: bool = False,
    force: bool = True,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Profiles every method over the prompts, writes the result to `out` and returns it. A stopped run resumes.

    `profile` in the result holds `methods` (times in ms, medians with 95 % intervals) and `ratios` of EAGLE-2's over
    FR-Spec's times. A prompt that fails is left out of all figures and named with its reason under `failures`.
    callbacks: `begin` gets the number of prompts in both passes, `finished` one prompt of a pass at a time.
    Raises `FrspecError` if every prompt fails, or if a stopped run was begun with other inputs.
    """
    callbacks = callbacks or Callbacks()
    callbacks.begin(len(prompts) + min(len(prompts), MOST_ROUNDS_INSIDE))
    inputs = run_inputs(pipeline, options, prompts)
    with PromptRun.opened(out, inputs, prompts, restart=restart, force=force, callbacks=callbacks) as run:
        engines = _engines(pipeline, options)
        timed = _time_cycles(run, engines, options.max_new_tokens)
        # What is compiled is one piece, so the parts are timed uncompiled; in engines of their own, made only now.
        instrumented = _engines(replace(pipeline, compiler=None), options)
        inside = _time_parts(run, instrumented, list(timed)[:MOST_ROUNDS_INSIDE], options.max_new_tokens)
        texts = {name: [TimedText(**each[name]) for each in timed.values()] for name in engines}
        parts = {name: [each[name] for each in inside.values()] for name in engines}
        methods = {
            name: {"k": engine.drafter.k or None, **_figures(texts[name], parts[name], options.seed)}
            for name, engine in engines.items()
        }
        figures = {"methods": methods, "ratios": _ratios(texts, options.seed), "failed": len(run.failures)}
        empty: dict[str, Any] = {"prompts": [], "summary": {}}  # a profile measures no whole texts
        result = settings(pipeline, options) | empty | {"failures": run.failures, "profile": figures}
        run.finish(out, result)
    return result


def _engines(pipeline: Pipeline, options: ProfileOptions) -> dict[str, Engine]:
    """New engines, by the names of the tables."""
    engines = {}
    for arm in make_arms(pipeline, options):
        assert isinstance(arm.decoder, Engine), arm.name
        engines[arm.name] = arm.decoder
    return engines


def _time_cycles(run: PromptRun, engines: Mapping[str, Engine], max_new_tokens: int) -> dict[int, Any]:
    """The first pass: by prompt and method, the fields of a `TimedText`."""

    def measure(index: int) -> dict[str, Any]:
        ids = run.prompts[index].ids
        return {name: asdict(time_text(engines[name], ids, max_new_tokens)) for name in rotated(list(engines), index)}

    warm_up = partial(_warm_up, run, engines, max_new_tokens)
    timed = run.measure("cycles", range(len(run.prompts)), measure, prepare=warm_up)
    return _checked(run, "cycles", timed, _TimedRecord, list(engines))


def _time_parts(
    run: PromptRun, engines: Mapping[str, Engine], indices: Sequence[int], max_new_tokens: int
) -> dict[int, Any]:
    """The second pass: by prompt and method, the seconds of each part in each cycle."""
    probes = {name: Probe(engine) for name, engine in engines.items()}

    def measure(index: int) -> dict[str, Any]:
        ids = run.prompts[index].ids
        return {
            name: _time_inside(engines[name], probes[name], ids, max_new_tokens)
            for name in rotated(list(engines), index)
        }

    inside = run.measure("parts", indices, measure, prepare=lambda: _warm_up(run, engines, max_new_tokens))
    return _checked(run, "parts", inside, dict[Part, list[float]], list(engines))


def _checked(run: PromptRun, stage: str, values: dict[int, Any], kind: Any, names: list[str]) -> dict[int, Any]:
    """The values of a stage. Raises `ArtifactError` for one that is not of that kind for every method."""
    for index, value in values.items():
        file = run.path(stage, index)
        schema.check_type(dict[str, kind], value, file, hint=RESTART)
        if value.keys() != set(names):
            raise ArtifactError(
                file, "value", f"times of {', '.join(names)}", found=f"of {', '.join(value)}", hint=RESTART
            )
    return values


def _warm_up(run: PromptRun, engines: Mapping[str, Engine], max_new_tokens: int) -> None:
    for engine in engines.values():
        warm_up(engine, [prompt.ids for prompt in run.prompts], max_new_tokens=max_new_tokens)


class Probe:
    """Wraps the parts of one engine's cycle; `take` returns the seconds of each part since it was last called.

    A part's time is its own: what a part inside it took is booked there. Raises AttributeError if a method that is to be
    timed does not exist: a part that is silently not timed would be shown as free.
    """

    def __init__(self, engine: Engine) -> None:
        self._wait = partial(torch.cuda.synchronize, engine.device) if engine.device.type == "cuda" else lambda: None
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._inner: list[float] = []
        self._wrap(engine, "forward", TARGET)
        self._wrap(engine.drafter, "propose", TREE)
        self._wrap(engine.drafter, "append_states", LAYER)
        if isinstance(engine.drafter, EagleDrafter):
            self._wrap(engine.drafter, "_run", LAYER)
            self._wrap(engine.drafter, "_candidates", LM_HEAD)

    def take(self) -> dict[str, float]:
        """Seconds by part; `rest` is left to the caller, who knows the whole."""
        seconds, self._seconds = self._seconds, dict.fromkeys(PARTS, 0.0)
        return seconds

    def _wrap(self, owner: Any, method: str, part: str) -> None:
        original = getattr(owner, method)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            self._wait()
            self._inner.append(0.0)
            begin = time.perf_counter()
            result = original(*arguments, **keywords)
            self._wait()
            seconds = time.perf_counter() - begin
            self._seconds[part] += seconds - self._inner.pop()
            if self._inner:
                self._inner[-1] += seconds
            return result

        setattr(owner, method, timed)


@dataclass(frozen=True)
class TimedText:
    """One text, the prefill left out.

    cycle, draft: seconds of each cycle, and of the draft in it.
    accepted: drafted tokens that were accepted, in all.
    """

    token_ids: list[int]
    cycle: list[float]
    draft: list[float]
    accepted: int


class _TimedRecord(schema.Schema):
    token_ids: list[int]
    cycle: list[float]
    draft: list[float]
    accepted: schema.Count


def time_text(engine: Engine, ids: Sequence[int], max_new_tokens: int) -> TimedText:
    """Decodes greedily, past EOS, and reads the clock between cycles: the engine runs as it always does."""
    generation = Generation()
    seconds: list[float] = []
    last = 0.0
    for cycle in engine.generate(ids, max_new_tokens=max_new_tokens, ignore_eos=True):
        seconds.append(time.perf_counter() - last)
        generation.add(cycle)
        last = time.perf_counter()
    return TimedText(generation.token_ids, seconds[1:], generation.draft_seconds, sum(generation.accepted))


def _time_inside(engine: Engine, probe: Probe, ids: Sequence[int], max_new_tokens: int) -> dict[str, list[float]]:
    """By part, its seconds in each cycle of one text."""
    probe.take()  # what a text that failed has left
    rounds: dict[str, list[float]] = {part: [] for part in PARTS}
    last = 0.0
    for cycle in engine.generate(ids, max_new_tokens=max_new_tokens, ignore_eos=True):
        whole, seconds = time.perf_counter() - last, probe.take()
        if not cycle.prefill:
            seconds[REST] = whole - sum(seconds.values())
            for part in PARTS:
                rounds[part].append(seconds[part])
        last = time.perf_counter()
    return rounds


def _figures(texts: Sequence[TimedText], parts: Sequence[Mapping[str, list[float]]], seed: int) -> dict[str, Any]:
    """parts: of each text of the second pass, the seconds of each part in each cycle."""
    totals = {part: sum(sum(rounds[part]) for rounds in parts) for part in PARTS}
    whole = sum(totals.values())
    cycles = sum(len(text.cycle) for text in texts)
    return {
        "cycles": cycles,
        "acceptance_length": (sum(text.accepted for text in texts) + cycles) / cycles,
        "cycle_ms": _ms(median([text.cycle for text in texts], seed=seed)),
        "draft_ms": _ms(median([text.draft for text in texts], seed=seed)),
        "parts_ms": {part: _ms(median([rounds[part] for rounds in parts], seed=seed)) for part in PARTS},
        "shares": {part: seconds / whole for part, seconds in totals.items()},
    }


def _ratios(texts: Mapping[str, Sequence[TimedText]], seed: int) -> dict[str, Any]:
    """EAGLE-2's time over FR-Spec's, for each subset size that ran: of the whole cycle, and of the draft in it."""
    if "eagle" not in texts:
        return {}
    eagle = texts["eagle"]
    return {
        f"eagle/{name}": {
            "cycle": median_ratio([text.cycle for text in eagle], [text.cycle for text in frspec], seed=seed),
            "draft": median_ratio([text.draft for text in eagle], [text.draft for text in frspec], seed=seed),
        }
        for name, frspec in texts.items()
        if name.startswith("frspec")
    }


def _ms(figures: dict[str, float]) -> dict[str, float]:
    return {name: value * 1000 for name, value in figures.items()}
