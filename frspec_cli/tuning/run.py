"""`frspec tune`: measure steps, replay acceptance, predict every tree, measure the best few.

Each stage and each measured prompt appears whole in `OUT.ledger/`, so that a killed run resumes behind the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from frspec_cli import schema, storage
from frspec_cli.answers.records import Answer
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.environment import environment, machine
from frspec_cli.errors import FrspecError, UsageError, option
from frspec_cli.heads.mtp import MtpModules
from frspec_cli.progress import Callbacks
from frspec_cli.replay.arms import check_branches
from frspec_cli.resume import RunFolder, run_folder
from frspec_cli.tuning import tune_file
from frspec_cli.tuning.acceptance import around, lengths_at
from frspec_cli.tuning.acceptance_grid import check_texts, read_texts, replay_sizes, sizes_of
from frspec_cli.tuning.best import measure_ways, record
from frspec_cli.tuning.costs import KIND, AcceptancePoint, CostFile, StepCosts
from frspec_cli.tuning.costs import SCHEMA as COSTS_SCHEMA
from frspec_cli.tuning.lists import judge
from frspec_cli.tuning.measure import TOKENS, cells_of, measure_costs
from frspec_cli.tuning.options import TuneOptions
from frspec_cli.tuning.predict import Way, best_few, predict
from frspec_cli.tuning.probe import Probe
from frspec_cli.tuning.tune_file import About, TuneFile, cached_path

_VERSION = 1
_DEAR = 4.0
"""If a product of sixteen rows takes more than so many times one of one row, no tree pays in that dtype."""


@dataclass
class Tune:
    """One run.

    load: dtype -> pipeline; each is loaded once and stays, for measurements take turns.
    about: what the result is about.
    probe: of the device: in which dtypes rows are dear, and in which acceptance is replayed.
    costs: of another machine; then nothing is measured.
    """

    load: Callable[[str], Pipeline]
    options: TuneOptions
    about: About
    probe: Probe
    costs: CostFile | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
    _pipelines: dict[str, Pipeline] = field(default_factory=dict)

    def run(self, path: Path, *, out: Path, restart: bool = False) -> dict[str, Any]:
        """Tunes on the answers (or prompts) in `path`, writes the result to `out` and returns it.

        Raises `FrspecError` if nothing in it can be replayed, or if a stopped run was begun with other inputs, and `UsageError`
        if several MTP modules are to be measured.
        """
        options, callbacks = self.options, self.callbacks
        check_texts(path, options)
        pipeline = self.pipeline(self._many_rows)
        if self.costs is None and isinstance(pipeline.head, MtpModules):
            raise UsageError(
                f"tune cannot measure what several MTP modules cost, for it does so with trees: give {option('costs')} FILE."
            )
        check_branches(pipeline.target, [TreeConfig(depth=1, beam=beam, nodes=beam + 1) for beam in options.beams])
        sizes = sizes_of(pipeline, options)
        with RunFolder.opened(run_folder(out)) as folder:
            if folder.resume(self._inputs(path), restart=restart):
                callbacks.say("resuming a stopped run")
            answers = read_texts(path, pipeline.target, options, folder, callbacks)
            costs = self.costs or self._costs(answers, [size.k for size in sizes], folder)
            _check_rows(costs, pipeline)
            acceptance = replay_sizes(pipeline, answers, sizes, options, folder, callbacks)
            prompt = sum(answer.prompt_length for answer in answers) / len(answers)
            context = round(prompt) + options.max_new_tokens // 2
            predicted = predictions(costs, acceptance, context, options.methods)
            best = best_few(predicted, options.measured)
            if self.costs is None:
                ways, verdict = measure_ways(self.pipeline, best, answers, options, folder, callbacks), None
            else:
                ways = [record(way) for way in best]
                verdict = judge(predicted, {(each.k, each.tree): each for each in acceptance}, seed=options.seed)
            result = self._result(costs, acceptance, context, ways, len(answers)) | {"lists": verdict}
            storage.write_json(out, result)
            folder.remove()
        return result

    def pipeline(self, dtype: str) -> Pipeline:
        """The pipeline in one dtype."""
        if dtype not in self._pipelines:
            self._pipelines[dtype] = self.load(dtype)
        return self._pipelines[dtype]

    @property
    def dtypes(self) -> Sequence[str]:
        """Those that are tried."""
        return self.options.dtypes or self.probe.dtypes

    @property
    def _many_rows(self) -> str:
        """The dtype in which acceptance is replayed: the fastest for many rows."""
        known = [dtype for dtype in self.dtypes if dtype in self.probe.dtypes]
        return min(known, key=lambda dtype: self.probe.product_ms(dtype, 16, 1), default=self.dtypes[0])

    def _costs(self, answers: Sequence[Answer], ks: Sequence[int], folder: RunFolder) -> CostFile:
        """The costs of every dtype, measured unless they are in the folder."""
        target = self.pipeline(self._many_rows).target
        room = int(target.config.max_position_embeddings) - TOKENS
        contexts = [context for context in self.options.contexts if context <= room] or [max(2, room // 2)]
        ids = [token for answer in answers for token in answer.ids.tolist()]
        ids *= 1 + max(contexts) // len(ids)
        costs = []
        for dtype in self.dtypes:
            path = folder.path(f"costs-{dtype}.json")
            if not path.is_file():
                self.callbacks.say(f"measuring steps in {dtype}")
                storage.write_json(path, self._measure_costs(dtype, ids, ks, contexts))
            costs.append(schema.check(StepCosts, schema.read_object(path), path).model_dump())
        content = {
            "kind": KIND,
            "schema": COSTS_SCHEMA,
            "machine": machine(),
            "source": "measured by frspec tune",
            "model": target.name,
            "identity": self.about.model,
            "torch": environment()["torch"],
            "costs": costs,
        }
        return schema.check(CostFile, content, "the measured costs")

    def _measure_costs(
        self, dtype: str, ids: Sequence[int], ks: Sequence[int], contexts: Sequence[int]
    ) -> dict[str, Any]:
        options, pipeline = self.options, self.pipeline(dtype)
        few = dtype in self.probe.dtypes and (
            self.probe.product_ms(dtype, 16, 1) > _DEAR * self.probe.product_ms(dtype, 1, 1)
        )
        self.callbacks.begin(options.rounds * cells_of(contexts, few=few))
        return measure_costs(
            pipeline,
            ids,
            method="frspec" if "frspec" in options.methods else "eagle",
            ks=ks,
            contexts=contexts,
            rounds=options.rounds,
            few=few,
            seed=options.seed,
            finished=self.callbacks.finished,
        )

    def _result(
        self,
        costs: CostFile,
        acceptance: Sequence[AcceptancePoint],
        context: int,
        ways: Sequence[dict[str, Any]],
        answers: int,
    ) -> dict[str, Any]:
        """The file's content."""
        pipeline = self.pipeline(self._many_rows)
        return {
            "kind": "tune",
            "schema": tune_file.SCHEMA,
            "environment": environment(),
            "options": _as_json(self.options)
            | {"model": pipeline.target.name, "draft": pipeline.draft, "vocab": pipeline.vocab, "answers": answers}
            | {"device": str(pipeline.target.device), "measured_here": self.costs is None},
            "about": self.about.model_dump(),
            "compiled": pipeline.compiler is not None,
            "context": context,
            "costs": costs.model_dump(by_alias=True),
            "acceptance": [point.model_dump(exclude={"cycles", "accepted"}) for point in acceptance],
            "ways": list(ways),
        }

    def _inputs(self, path: Path) -> dict[str, Any]:
        """What the result depends on, by the names that a user knows them by."""
        here = machine()
        return {
            "version": _VERSION,
            **{f"--{name.replace('_', '-')}": value for name, value in _as_json(self.options).items()},
            **self.about.model_dump(),
            **{name: here[name] for name in tune_file.MACHINE},
            "--costs": None if self.costs is None else self.costs.model_dump_json(),
            "prompts or answers": storage.sha256_file(path) if path.is_file() else None,
        }


def _check_rows(costs: CostFile, pipeline: Pipeline) -> None:
    """Raises `FrspecError` unless the costs are of an LM head as large as the draft's: k is a share of one vocabulary."""
    assert pipeline.head is not None
    rows = (pipeline.head.own_lm_head or pipeline.target.lm_head).size
    for each in costs.costs:
        if each.k != rows:
            raise FrspecError(
                f"the costs are of a draft LM head of {each.k:,} rows, that of {pipeline.target.name} has {rows:,}: they say "
                "nothing about it."
            )


def predictions(
    costs: CostFile, acceptance: Sequence[AcceptancePoint], context: int, methods: Sequence[str]
) -> list[Way]:
    """Every way to decode by the costs, at the sizes whose acceptance is recorded; best first."""
    by_size = {k: lengths_at([each for each in acceptance if each.k == k], k) for k in {each.k for each in acceptance}}
    return predict(costs.costs, by_size, context=context, methods=methods)


def keep(result: dict[str, Any]) -> Path:
    """Keeps a measured result for `auto` in this machine's cache; returns where."""
    import torch

    tune = schema.check(TuneFile, result, "the result")
    device = result["options"]["device"]
    path = cached_path(tune.about, machine(), torch=torch.__version__, device=device, compiled=tune.compiled)
    storage.write_json(path, result)
    return path


def _as_json(options: TuneOptions) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}


def from_costs(costs: CostFile, options: TuneOptions, *, context: int, out: Path) -> dict[str, Any]:
    """The answer from a cost file and the acceptance lengths in it, written to `out`: no model is read.

    Trees whose acceptance is not recorded are worked out from the recorded ones (`acceptance.around`).
    Raises `FrspecError` if the file records none.
    """
    if not costs.acceptance:
        raise FrspecError(
            "the cost file records no acceptance lengths.", hint="Name answers or prompts to replay beside it."
        )
    acceptance = around(costs.acceptance)
    predicted = predictions(costs, acceptance, context, options.methods)
    ways = best_few(predicted, options.measured)
    result = {
        "kind": "tune",
        "schema": tune_file.SCHEMA,
        "environment": costs.machine,
        "options": _as_json(options) | {"model": costs.model, "measured_here": False},
        "about": About(model=costs.identity or "", head=None, subset=None).model_dump(),
        "compiled": costs.costs[0].compiled,
        "context": context,
        "costs": costs.model_dump(by_alias=True),
        "acceptance": [point.model_dump() for point in acceptance],
        "ways": [record(way) for way in ways],
        "lists": judge(predicted),
    }
    storage.write_json(out, result)
    return result
