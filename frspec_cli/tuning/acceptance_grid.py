"""A tune's acceptance lengths: every tree and size of the draft's LM head replayed over the same answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frspec_cli import schema, storage
from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import target_states
from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.options import Method, TreeConfig
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import Target
from frspec_cli.progress import Callbacks
from frspec_cli.replay.grid import replay_grid
from frspec_cli.replay.options import ReplayOptions
from frspec_cli.replay.suite import Text, answer_suite, check_suite, read_suite
from frspec_cli.resume import RunFolder
from frspec_cli.tuning.acceptance import as_points
from frspec_cli.tuning.costs import ReplayedPoint
from frspec_cli.tuning.options import TuneOptions


@dataclass(frozen=True)
class Size:
    """One size of the draft's LM head. method: frspec for a subset's rows, eagle for all."""

    method: Method
    k: int


def sizes_of(pipeline: Pipeline, options: TuneOptions) -> list[Size]:
    """What is tuned, FR-Spec's sizes first. Raises `FrspecError` if a method lacks its head or its subset."""
    found: list[Size] = []
    for method, ks in (("frspec", options.ks or (None,)), ("eagle", (None,))):
        if method in options.methods:
            found += [Size(method, pipeline.drafter(method, tree=TreeConfig(), k=k).k) for k in ks]  # type: ignore[arg-type]
    return found


def check_texts(path: Path, options: TuneOptions) -> None:
    """Raises `FrspecError` if there is no such file, `UsageError` if it holds prompts and answers are to be held out."""
    check_suite(path, _replay_options(options))


def read_texts(
    path: Path, target: Target, options: TuneOptions, folder: RunFolder, callbacks: Callbacks
) -> list[Answer]:
    """The answers in a file, or the target's to the prompts in it, each up to its end of sequence.

    Raises `FrspecError` if none of them has a cycle.
    """
    replay_options = _replay_options(options)
    suite = read_suite(path, target, replay_options)
    for failure in suite.failures:
        callbacks.warn(f"prompt {failure['id']} is left out: {failure['reason']}")
    answers = answer_suite(suite, target, replay_options, folder, callbacks)
    parts = [Text.of(answer, target.eos_ids).answer for answer in answers]
    replayable = [part for part in parts if part.queries > 0]
    if not replayable:
        raise FrspecError(f"no answer in {path} has two tokens: nothing is drafted there.")
    return replayable


def replay_sizes(
    pipeline: Pipeline,
    answers: Sequence[Answer],
    sizes: Sequence[Size],
    options: TuneOptions,
    folder: RunFolder,
    callbacks: Callbacks,
) -> list[ReplayedPoint]:
    """The acceptance length of every tree of every size. What is finished is kept in the folder, by size and beam."""
    missing = [(size, beam) for size in sizes for beam in options.beams if not _path(folder, size, beam).is_file()]
    if missing:
        callbacks.say("replaying acceptance")
        callbacks.begin(len(answers) * len(missing))
        states = dict(target_states(pipeline.target.model, answers, layers=pipeline.head.taps))  # type: ignore[union-attr]
        texts = [(answer, states[index]) for index, answer in enumerate(answers)]
        for size, beam in missing:
            points = _replay(pipeline, texts, size, beam, options, callbacks.finished)
            storage.write_json(_path(folder, size, beam), points)
    paths = [_path(folder, size, beam) for size in sizes for beam in options.beams]
    found: list[list[ReplayedPoint]] = [
        schema.check_type(list[ReplayedPoint], schema.read_json(path), path) for path in paths
    ]
    return [point for each in found for point in each]


def _replay_options(options: TuneOptions) -> ReplayOptions:
    deepest = TreeConfig(depth=max(options.depths), beam=1, nodes=2)
    return ReplayOptions(
        methods=("eagle",), trees=(deepest,), max_new_tokens=options.max_new_tokens, held_out=options.held_out,
        limit=options.limit, ignore_eos=False, seed=options.seed,
    )  # fmt: skip


def _path(folder: RunFolder, size: Size, beam: int) -> Path:
    return folder.path(f"acceptance-{size.method}-{size.k}-{beam}.json")


def _replay(
    pipeline: Pipeline, texts: Any, size: Size, beam: int, options: TuneOptions, finished: Callable[[int], None]
) -> list[dict[str, Any]]:
    k = size.k if size.method == "frspec" else None
    drafter = pipeline.drafter(size.method, tree=TreeConfig(), k=k)
    assert isinstance(drafter, EagleDrafter)
    grid = replay_grid(
        drafter.head,
        drafter.lm_head,
        texts,
        beam=beam,
        depths=options.depths,
        nodes=options.nodes,
        new_tokens=options.max_new_tokens,
        look_ahead=max(options.depths),
        finished=finished,
    )
    points = as_points({tree: each.total.length for tree, each in grid.items()}, size.k)
    return [
        point | {"cycles": each.cycles, "accepted": each.accepted}
        for point, each in zip(points, grid.values(), strict=True)
    ]
