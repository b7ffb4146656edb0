"""From prompts to draft heads, and what they are worth: collect, train, replay, tune, verify."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from frspec_cli.answers.options import CollectOptions
from frspec_cli.api.common import CALLBACKS, PathLike, Result, made_or_read
from frspec_cli.doctor.options import DoctorOptions
from frspec_cli.errors import AlreadyThere, UsageError, as_fields, option
from frspec_cli.models.shipped import DEFAULT_MODEL
from frspec_cli.progress import Callbacks
from frspec_cli.replay.options import ReplayOptions
from frspec_cli.training.options import RunSettings, TrainOptions, check_draft_vocabulary, check_dtype
from frspec_cli.tuning.options import COSTS_CONTEXT, TuneOptions
from frspec_cli.verification.options import VerifyOptions

if TYPE_CHECKING:
    from frspec_cli.answers.records import Answer
    from frspec_cli.decoding.pipeline import Pipeline


def collect(
    prompts: PathLike,
    out: PathLike,
    *,
    model: PathLike = DEFAULT_MODEL,
    options: CollectOptions = CollectOptions(),
    device: str | None = None,
    dtype: str = "bfloat16",
    restart: bool = False,
    force: bool = False,
    callbacks: Callbacks = CALLBACKS,
) -> list[Answer]:
    """Lets the target answer prompts into `out` (.jsonl or .jsonl.zst); returns the answers of two tokens or more.

    Killed and called again alike, it resumes.

    >>> options = CollectOptions(max_new_tokens=24)
    >>> answers = collect("prompts.jsonl", "answers.jsonl", model="model/", options=options, dtype="float64")
    >>> len(answers), answers[0].prompt_length, answers[0].response_length
    (8, 20, 24)
    """
    from frspec_cli import outputs
    from frspec_cli.answers.collect import collect as answer
    from frspec_cli.answers.prompts import read_prompts
    from frspec_cli.answers.records import read_answers
    from frspec_cli.models.target import load_target

    path = outputs.check(out, inputs=[prompts, model], replaces=outputs.ANSWERS, what="a file of answers", force=force)
    read_prompts(prompts, limit=1, texts=True)  # a wrong file is reported before the model is loaded
    target = load_target(str(model), device=device, dtype=dtype, hybrid=True)
    with suppress(AlreadyThere):
        answer(target, Path(prompts), path, options, callbacks=callbacks, restart=restart, force=force)
    return read_answers(path, vocab_size=target.config.vocab_size)


@dataclass(frozen=True)
class TrainedHead:
    """A draft head that `train_draft` left.

    folder: its config.json, model.safetensors and card.
    acceptance_length: of the best validation, on held-out answers.
    """

    folder: Path
    acceptance_length: float


def train_draft(
    answers: PathLike,
    out: PathLike,
    *,
    model: PathLike,
    options: TrainOptions = TrainOptions(),
    settings: RunSettings = RunSettings(),
    vocab: PathLike | None = None,
    k: int | None = None,
    initial: PathLike | None = None,
    features: PathLike | None = None,
    device: str | None = None,
    dtype: str = "bfloat16",
    restart: bool = False,
    force: bool = False,
    callbacks: Callbacks = CALLBACKS,
) -> TrainedHead:
    """Trains an EAGLE draft head on the target's own answers. Killed and called again alike, it resumes, to the same bits.

    >>> options = TrainOptions(epochs=2, batch_tokens=64)
    >>> head = train_draft("answers.jsonl", "head", model="model/", options=options, dtype="float32")
    >>> sorted(path.name for path in head.folder.iterdir()), head.acceptance_length > 1
    (['README.md', 'config.json', 'model.safetensors'], True)

    vocab, k: the tokens of an EAGLE-3 head's own LM head (`RunSettings(layout="eagle3")`).
    initial: a head to start from.
    features: a folder for the target's features, which runs on the same answers can share.
    callbacks: `begin` gets the number of steps, `finished` one for each step.
    """
    from frspec_cli import outputs
    from frspec_cli.heads.files import HEAD, holds_only_head
    from frspec_cli.models.target import load_target
    from frspec_cli.schema import read_object
    from frspec_cli.tokens.tokenizer import load_tokenizer
    from frspec_cli.training.new_head import draft_ids_of
    from frspec_cli.training.run import RunInputs, open_run

    subset, warm, shared = (None if each is None else Path(each) for each in (vocab, initial, features))
    check_draft_vocabulary(settings.layout, vocab=subset, k=k)
    check_dtype(dtype)
    inputs: list[PathLike | None] = [answers, model, vocab, initial, features]
    folder = outputs.check(out, inputs=inputs, kind="folder", replaces=holds_only_head, what=HEAD)
    target = load_target(str(model), device=device, dtype=dtype)
    tokenizer = load_tokenizer(str(target.folder))
    draft_ids = None
    if subset is not None:
        draft_ids = draft_ids_of(subset, k=k, tokenizer=tokenizer, target=target, warn=callbacks.warn)
    run_inputs = RunInputs(
        target, Path(answers), folder, options, settings, initial=warm, features=shared, draft_ids=draft_ids,
        noted={"tokenizer_fingerprint": tokenizer.fingerprint},
        command=f"frspec_cli.train_draft({Path(answers).name!r}, {folder.name!r}, ...)",
        restart=restart, force=force,
    )  # fmt: skip
    with suppress(AlreadyThere), open_run(run_inputs, callbacks=callbacks) as run:
        callbacks.begin(run.trainer.total_steps - run.trainer.step)
        run.train(lambda record, total: callbacks.finished(1))
    return TrainedHead(folder, read_object(folder / "config.json")["acceptance_length"])


def replay_answers(
    answers: PathLike,
    out: PathLike,
    *,
    model: PathLike = DEFAULT_MODEL,
    drafts: Sequence[PathLike] = (),
    vocabs: Sequence[PathLike] = (),
    options: ReplayOptions = ReplayOptions(),
    device: str | None = None,
    dtype: str = "bfloat16",
    restart: bool = False,
    force: bool = False,
    callbacks: Callbacks = CALLBACKS,
) -> Result:
    """What heads, subsets, sizes and trees accept of recorded answers, by the draft alone, and why cycles end.

    >>> result = replay_answers("answers.jsonl", "replay.json", model="model/", drafts=["head/"],
    ...     vocabs=["subset.parquet"], options=ReplayOptions(ks=(280, 300)), dtype="float64")
    >>> sorted(result["summary"])
    ['eagle', 'frspec', 'frspec@280', 'frspec@300']
    >>> result["summary"]["frspec@300"]["acceptance_length"] <= result["summary"]["eagle"]["acceptance_length"]
    True

    answers: what `collect` recorded, or prompts, which the target then answers first.
    drafts: heads; () for what ships for the model, "mtp" for the model's own module.
    """
    from frspec_cli import outputs
    from frspec_cli.models.target import load_target
    from frspec_cli.replay.arms import load_pipelines
    from frspec_cli.replay.suite import check_suite
    from frspec_cli.replay.sweep import run_replay

    inputs: list[PathLike | None] = [answers, model, *drafts, *vocabs]
    path = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result", force=force)
    check_suite(Path(answers), options)
    pipelines = load_pipelines(
        load_target(str(model), device=device, dtype=dtype, hybrid=True),
        options,
        drafts=[str(each) for each in drafts],
        vocabs=[str(each) for each in vocabs],
        warn=callbacks.warn,
    )
    run = partial(run_replay, pipelines, options, Path(answers), out=path, restart=restart, force=force)
    return made_or_read(partial(run, callbacks=callbacks), path)


def diagnose_head(
    answers: PathLike | None = None,
    *,
    model: PathLike = DEFAULT_MODEL,
    draft: PathLike | None = None,
    vocab: PathLike | None = None,
    options: DoctorOptions = DoctorOptions(),
    out: PathLike | None = None,
    device: str | None = None,
    dtype: str = "bfloat16",
    restart: bool = False,
    force: bool = False,
    callbacks: Callbacks = CALLBACKS,
) -> Result:
    """Why a draft head accepts little: its answers replayed under every reading of its files that could be wrong.

    >>> options = DoctorOptions(limit=2, tree=TreeConfig(depth=2, beam=1, nodes=3), ceilings=False)
    >>> found = diagnose_head("answers.jsonl", model="model/", draft="head/", options=options, dtype="float64")
    >>> found["verdict"] in ("own", "reading", "target"), found["readings"][0]["acceptance_length"] >= 1
    (True, True)

    answers: what `collect` recorded, or prompts, which the target then answers first; by default a dozen prompts.
    out: also write the findings there; with it, a killed call resumes.
    """
    from frspec_cli import outputs
    from frspec_cli.doctor.examine import examine
    from frspec_cli.models.target import load_target

    path = None
    if out is not None:
        inputs: list[PathLike | None] = [answers, model, draft, vocab]
        path = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result", force=force)
    run = partial(
        examine,
        load_target(str(model), device=device, dtype=dtype),
        options,
        draft=None if draft is None else str(draft),
        vocab=None if vocab is None else str(vocab),
        suite=None if answers is None else Path(answers),
        out=path,
        restart=restart,
        force=force,
        callbacks=callbacks,
    )
    found = run() if path is None else made_or_read(run, path)
    return cast(Result, json.loads(as_fields(json.dumps(found))))


def tune(
    answers: PathLike | None = None,
    out: PathLike = "tune.json",
    *,
    model: PathLike = DEFAULT_MODEL,
    draft: PathLike | None = None,
    vocab: PathLike | None = None,
    options: TuneOptions = TuneOptions(),
    costs: PathLike | None = None,
    device: str | None = None,
    restart: bool = False,
    callbacks: Callbacks = CALLBACKS,
) -> Result:
    """Finds the dtype, subset size and draft tree that this machine wants, or one with other step costs.

    >>> ways = tune(costs="fr-spec-8b")["ways"]  # the paper's A800 and Llama-3-8B, without that machine or model
    >>> best = max(ways, key=lambda way: way["predicted"])
    >>> best["method"], best["k"], best["depth"]
    ('frspec', 32768, 5)

    answers: recorded answers, or prompts; may be left out if `costs` record acceptance lengths.
    costs: step costs of another machine, a file or a name; then nothing is measured, and `lists` says whether the subset pays.
    """
    from frspec_cli import outputs
    from frspec_cli.models.target import load_target, resolve_device
    from frspec_cli.tuning.choose import Wanted, about, probe_of
    from frspec_cli.tuning.costs import find_costs, read_costs
    from frspec_cli.tuning.run import Tune, from_costs, keep

    file = None if costs is None else find_costs(str(costs))
    inputs: list[PathLike | None] = [answers, model, draft, vocab, file]
    path = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result")
    elsewhere = None if file is None else read_costs(file)
    if answers is None:
        if elsewhere is None:
            raise UsageError(f"give answers or prompts to tune on, or {option('costs')}.")
        return from_costs(elsewhere, options, context=COSTS_CONTEXT, out=path)
    head, subset = (None if each is None else str(each) for each in (draft, vocab))
    k = max(options.ks, default=None)

    def load(dtype: str) -> Pipeline:
        from frspec_cli.decoding.pipeline import load_pipeline

        target = load_target(str(model), device=device, dtype=dtype, hybrid=elsewhere is not None)
        return load_pipeline(target, draft=head, vocab=subset, k=k, warn=callbacks.warn)

    wanted = Wanted(str(model), draft=head, vocab=subset, k=k, device=device)
    probe = probe_of(str(model), str(resolve_device(device)), say=callbacks.say)
    run = Tune(load, options, about(wanted), probe, elsewhere, callbacks)
    result = run.run(Path(answers), out=path, restart=restart)
    if elsewhere is None:
        keep(result)
    return result


def verify(
    prompts: PathLike,
    options: VerifyOptions = VerifyOptions(),
    *,
    out: PathLike | None = None,
    restart: bool = False,
    force: bool = False,
    callbacks: Callbacks = CALLBACKS,
) -> Result:
    """Checks that the output is plain decoding's, token by token, greedy and with a seed; `passed` says whether it is.

    >>> options = VerifyOptions(model="model/", draft="head/", vocab="subset.parquet", dtype="float64", stock=0)
    >>> result = verify("prompts.jsonl", options)
    >>> result["passed"], result["identical"], result["prompts"]
    (True, 8, 8)
    """
    from frspec_cli import outputs
    from frspec_cli.answers.prompts import read_prompts
    from frspec_cli.decoding.pipeline import load_pipeline
    from frspec_cli.models.target import load_target
    from frspec_cli.verification.run import verify as run_verification

    inputs: list[PathLike | None] = [options.model, options.draft, options.vocab, prompts]
    path = None
    if out is not None:
        path = outputs.check(out, inputs=inputs, replaces=outputs.JSON, what="a result", force=force)

    def load(dtype: str) -> Pipeline:
        return load_pipeline(
            load_target(options.model, device=options.device, dtype=dtype),
            draft=options.draft,
            vocab=options.vocab,
            k=options.k,
            compiled=options.compiled,
            drafts=options.method != "lookup",
            warn=callbacks.warn,
        )

    run = partial(run_verification, load, read_prompts(prompts), options, out=path, restart=restart, force=force)
    return run(callbacks=callbacks) if path is None else made_or_read(partial(run, callbacks=callbacks), path)
