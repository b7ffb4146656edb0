"""Acceptance without the target's work: recorded answers replayed for any number of heads, subsets, sizes and trees.

Output that is lossless does not depend on any of these, so one pass of the target over each answer serves them all. A
replay says what is accepted and why no more is; of speed it says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from frspec_cli import schema, storage
from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import States, target_states
from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.options import Method, refuse_unused
from frspec_cli.decoding.pipeline import Pipeline, load_pipeline
from frspec_cli.decoding.pipeline_identity import pipeline_identity
from frspec_cli.environment import environment
from frspec_cli.errors import ArtifactError, option
from frspec_cli.models.target import Target
from frspec_cli.progress import Callbacks
from frspec_cli.replay.cycles import Replayed
from frspec_cli.replay.cycles import replay as replay_cycles
from frspec_cli.replay.options import ReplayOptions
from frspec_cli.replay.report import ReplayedAnswer, as_record, by_category, describe, figures
from frspec_cli.replay.suite import ReplaySuite, answer_suite, read_suite
from frspec_cli.resume import RunFolder, run_folder
from frspec_cli.subsets.load import load_subset
from frspec_cli.tokens.tokenizer import load_tokenizer

SCHEMA = 1
_VERSION = 1
_GROUP_TOKENS = 8192  # positions whose states are in memory at once

Pipelines = Sequence[Sequence[Pipeline]]
"""Of each head, its pipelines with each subset; all of one target."""


@dataclass(frozen=True)
class ReplayArm:
    """One head, vocabulary and tree under its name in the tables."""

    name: str
    method: Method
    draft: str | None
    drafter: EagleDrafter


def load_pipelines(
    target: Target,
    options: ReplayOptions,
    *,
    drafts: Sequence[str] = (),
    vocabs: Sequence[str] = (),
    norm_output: bool | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Pipelines:
    """Every head with every subset; by default what ships for the model. Raises as `load_pipeline` does.

    norm_output: of every head, as in `load_head`.
    """
    refuse_unused(options.methods, vocab=vocabs)
    k = max(options.ks, default=None)
    pipelines = []
    heads: Sequence[str | None] = drafts or [None]
    for draft in heads:
        vocab = vocabs[0] if vocabs else None
        first = load_pipeline(target, draft=draft, vocab=vocab, k=k, norm_output=norm_output, warn=warn)
        by_vocab = [first]
        for vocab in vocabs[1:]:
            tokenizer = load_tokenizer(str(target.folder))
            subset = load_subset(vocab, tokenizer=tokenizer, model_rows=target.rows, k=k, warn=warn)
            by_vocab.append(replace(first, subset=subset, vocab=vocab))
        pipelines.append(by_vocab)
    return pipelines


def make_arms(pipelines: Pipelines, options: ReplayOptions) -> list[ReplayArm]:
    """Every head x tree x method, subset and size. A name says no more than is needed to tell them apart."""
    arms = []
    for head_number, by_vocab in enumerate(pipelines, start=1):
        head = f" head {head_number}" if len(pipelines) > 1 else ""
        for tree in options.trees:
            size_of_tree = f" {tree.depth},{tree.beam},{tree.nodes}" if len(options.trees) > 1 else ""
            for method, vocab_number, k in _variants(len(by_vocab), options):
                pipeline = by_vocab[vocab_number]
                drafter = pipeline.drafter(method, tree=tree, k=k)
                assert isinstance(drafter, EagleDrafter)
                size = f"@{k}" if len(options.ks) > 1 and k else ""
                vocab = f" vocab {vocab_number + 1}" if len(by_vocab) > 1 and method == "frspec" else ""
                arms.append(ReplayArm(method + size + vocab + head + size_of_tree, method, pipeline.draft, drafter))
    return arms


def _variants(vocabs: int, options: ReplayOptions) -> Iterator[tuple[Method, int, int | None]]:
    """(method, index of the subset, k); the full LM head depends on no subset."""
    if "eagle" in options.methods:
        yield "eagle", 0, None
    if "frspec" in options.methods:
        for vocab in range(vocabs):
            for k in options.ks or (None,):
                yield "frspec", vocab, k


def run_replay(
    pipelines: Pipelines,
    options: ReplayOptions,
    path: Path,
    *,
    out: Path,
    restart: bool = False,
    callbacks: Callbacks | None = None,
) -> dict[str, Any]:
    """Replays the answers (or the prompts, once answered) in `path`, writes the result to `out` and returns it.

    What is finished is kept in `OUT.ledger/`, and a stopped run resumes. What does not fit into the model's context is
    left out, counted under `failed` and named with its reason under `failures`.
    callbacks: `begin` gets the number of prompts to answer, then of answers to replay, `finished` some of them.
    """
    callbacks = callbacks or Callbacks()
    target, arms = pipelines[0][0].target, make_arms(pipelines, options)
    suite = read_suite(path, target, options)
    for failure in suite.failures:
        callbacks.warn(f"prompt {failure['id']} is left out: {failure['reason']}")
    record = _record(pipelines, options, suite, path)
    with RunFolder.opened(run_folder(out)) as folder:
        if folder.resume(_inputs(pipelines, options, record, suite), restart=restart):
            callbacks.say("resuming a stopped run")
        answers = answer_suite(suite, target, options, folder, callbacks)
        replayed = _replay_all(target, arms, answers, suite.new_tokens, folder, callbacks)
        result = {
            "schema": SCHEMA,
            "kind": "replay",
            "environment": environment(),
            "options": record,
            "answers": describe(answers),
            "prompts": [as_record(by_arm[arm.name]) for by_arm in replayed for arm in arms],
            "failures": list(suite.failures),
            "summary": _summary(arms, replayed, seed=options.seed, failed=len(suite.failures)),
        }
        storage.write_json(out, result)
        folder.remove()
    return result


def _replay_all(
    target: Target,
    arms: Sequence[ReplayArm],
    answers: Sequence[Answer],
    new_tokens: int | None,
    folder: RunFolder,
    callbacks: Callbacks,
) -> list[dict[str, ReplayedAnswer]]:
    """Of each answer, its cycles by arm. Groups of answers are kept in the folder as they are finished."""
    callbacks.begin(len(answers))
    cycles: dict[int, dict[str, Any]] = {}
    for number, group in enumerate(_groups(answers)):
        path = folder.path(f"cycles-{number:06d}.json")
        if not path.is_file():
            storage.write_json(path, _replay_group(target, arms, [answers[index] for index in group], new_tokens))
        cycles.update(zip(group, _recorded_group(path, len(group), [arm.name for arm in arms]), strict=True))
        callbacks.finished(len(group))
    return [
        {arm.name: ReplayedAnswer(arm.name, answer, Replayed(**cycles[index][arm.name])) for arm in arms}
        for index, answer in enumerate(answers)
    ]


def _recorded_group(path: Path, count: int, arms: Sequence[str]) -> list[dict[str, Any]]:
    """What `_replay_group` gave, from a part of the run's folder."""
    hint = f"{option('restart')} starts over."
    records = schema.check_type(list[dict[str, _Cycles]], schema.read_json(path, hint=hint), path, hint=hint)
    if len(records) != count or any(set(record) != set(arms) for record in records):
        raise ArtifactError(
            path, "its content", f"{count} answers by {', '.join(arms)}", found="of other answers", hint=hint
        )
    return [{name: cycles.model_dump() for name, cycles in record.items()} for record in records]


class _Cycles(schema.Schema):
    roots: list[schema.Count]
    accepted: list[schema.Count]
    misses: list[str]


def _replay_group(
    target: Target, arms: Sequence[ReplayArm], answers: Sequence[Answer], new_tokens: int | None
) -> list[dict[str, Any]]:
    """Of each answer, the fields of `Replayed` by arm."""
    layers = tuple(sorted({tap for arm in arms for tap in arm.drafter.taps}))
    states = dict(target_states(target.model, answers, layers=layers))
    records: list[dict[str, Any]] = [{} for _ in answers]
    for arm in arms:
        own = [layers.index(tap) for tap in arm.drafter.taps]
        texts = [
            (answer, States(states[index].last, tuple(states[index].taps[tap] for tap in own)))
            for index, answer in enumerate(answers)
        ]
        drafter = arm.drafter
        cycles = replay_cycles(drafter.head, drafter.lm_head, texts, tree=drafter.tree, new_tokens=new_tokens)
        for record, each in zip(records, cycles, strict=True):
            record[arm.name] = asdict(each)
    return records


def _groups(answers: Sequence[Answer]) -> list[list[int]]:
    """Indices of answers of similar length, in groups of at most `_GROUP_TOKENS` ids together."""
    groups: list[list[int]] = [[]]
    tokens = 0
    for index in sorted(range(len(answers)), key=lambda index: len(answers[index].ids)):
        if groups[-1] and tokens + len(answers[index].ids) > _GROUP_TOKENS:
            groups.append([])
            tokens = 0
        groups[-1].append(index)
        tokens += len(answers[index].ids)
    return groups


def _summary(
    arms: Sequence[ReplayArm], replayed: Sequence[dict[str, ReplayedAnswer]], *, seed: int, failed: int
) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for arm in arms:
        answers = [by_arm[arm.name] for by_arm in replayed]
        tree = arm.drafter.tree
        summary[arm.name] = {
            "method": arm.method,
            "k": arm.drafter.k,
            "draft": arm.draft,
            "depth": tree.depth,
            "beam": tree.beam,
            "nodes": tree.nodes,
            "failed": failed,
            **figures(answers, seed=seed),
            "categories": by_category(answers, seed=seed),
        }
    first = next((name for name in summary if name.startswith("frspec@")), None)
    return summary | ({"frspec": summary[first]} if first and "frspec" not in summary else {})


def _record(pipelines: Pipelines, options: ReplayOptions, suite: ReplaySuite, path: Path) -> dict[str, Any]:
    """What a result says about how it was made."""
    target = pipelines[0][0].target
    return {
        "methods": list(options.methods),
        "ks": list(options.ks),
        "trees": [[tree.depth, tree.beam, tree.nodes] for tree in options.trees],
        "max_new_tokens": suite.new_tokens,
        "seed": options.seed,
        "model": target.name,
        "drafts": [by_vocab[0].draft for by_vocab in pipelines],
        "vocab": pipelines[0][0].vocab,
        "vocabs": [pipeline.vocab for pipeline in pipelines[0]],
        "dtype": str(target.dtype).removeprefix("torch."),
        "device": str(target.device),
        "suite": path.name,
        "recorded": suite.recorded,
        "held_out": options.held_out,
    }


def _inputs(pipelines: Pipelines, options: ReplayOptions, record: dict[str, Any], suite: ReplaySuite) -> dict[str, Any]:
    """What the cycles depend on, by the names that a user knows them by."""
    flags = {"ks": "--k", "trees": "--tree", "drafts": "--draft", "vocabs": "--vocab"}
    left_out = ("vocab", "suite", "recorded", "seed")  # named otherwise here, or without a part in the cycles
    return {
        "version": _VERSION,
        **{
            flags.get(name, f"--{name.replace('_', '-')}"): value
            for name, value in record.items()
            if name not in left_out
        },
        "--stop-at-eos": not options.ignore_eos,
        "model, heads and subsets": [pipeline_identity(each) for by_vocab in pipelines for each in by_vocab],
        "prompts or answers": suite.digest,
    }
