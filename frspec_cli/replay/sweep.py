"""Acceptance without the target's work: recorded answers replayed for any number of heads, subsets, sizes and trees.

Output that is lossless does not depend on any of these, so one pass of the target over each answer serves them all. A
replay says what is accepted and why no more is; of speed it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from frspec_cli import schema, storage
from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import States, target_states
from frspec_cli.decoding.pipeline_identity import pipeline_identity
from frspec_cli.environment import environment
from frspec_cli.errors import ArtifactError, option
from frspec_cli.models.target import Target
from frspec_cli.progress import Callbacks
from frspec_cli.replay.arms import Pipelines, ReplayArm, make_arms
from frspec_cli.replay.cycles import Replayed
from frspec_cli.replay.cycles import replay as replay_cycles
from frspec_cli.replay.groups import with_languages
from frspec_cli.replay.options import ReplayOptions
from frspec_cli.replay.report import ReplayedAnswer, as_record, describe
from frspec_cli.replay.slots import TextSlots
from frspec_cli.replay.suite import ReplaySuite, Text, answer_suite, read_suite
from frspec_cli.replay.summary import summarize
from frspec_cli.resume import INPUTS, RunFolder, check_finished, run_folder
from frspec_cli.tokens.tokenizer import load_tokenizer

SCHEMA = 1
_VERSION = 2
_GROUP_TOKENS = 8192  # positions whose states are in memory at once


def run_replay(
    pipelines: Pipelines,
    options: ReplayOptions,
    path: Path,
    *,
    out: Path,
    restart: bool = False,
    force: bool = True,
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
    inputs = _inputs(pipelines, options, record, suite)
    of_the_result = inputs | {"--seed": options.seed}  # of the intervals
    check_finished(out, of_the_result, restart=restart, force=force)
    with RunFolder.opened(run_folder(out)) as folder:
        if folder.resume(inputs, restart=restart):
            callbacks.say("resuming a stopped run")
        answers = with_languages(
            answer_suite(suite, target, options, folder, callbacks), load_tokenizer(str(target.folder))
        )
        most = None if suite.new_tokens is None else suite.new_tokens + options.deepest + 1
        texts = [Text.of(answer, target.eos_ids, most=most) for answer in answers]
        replayed = _replay_all(target, arms, texts, options, suite.new_tokens, folder, callbacks)
        result = {
            "schema": SCHEMA,
            "kind": "replay",
            "environment": environment(),
            "options": record,
            "answers": describe([text.answer for text in texts])
            | {"after_eos_tokens": sum(t.after_tokens for t in texts)},
            "prompts": [as_record(by_arm[arm.name]) for by_arm in replayed for arm in arms],
            "failures": list(suite.failures),
            "summary": summarize(arms, replayed, seed=options.seed, failed=len(suite.failures)),
            INPUTS: of_the_result,
        }
        storage.write_json(out, result)
        folder.remove()
    return result


def _replay_all(
    target: Target,
    arms: Sequence[ReplayArm],
    texts: Sequence[Text],
    options: ReplayOptions,
    new_tokens: int | None,
    folder: RunFolder,
    callbacks: Callbacks,
) -> list[dict[str, ReplayedAnswer]]:
    """Of each answer, its cycles by arm. Groups of answers are kept in the folder as they are finished."""
    callbacks.begin(len(texts))
    records: dict[int, dict[str, Any]] = {}
    for number, group in enumerate(_groups(texts)):
        path = folder.path(f"cycles-{number:06d}.json")
        if not path.is_file():
            storage.write_json(path, _replay_group(target, arms, [texts[i] for i in group], options, new_tokens))
        records.update(zip(group, _recorded_group(path, len(group), [arm.name for arm in arms]), strict=True))
        callbacks.finished(len(group))
    return [
        {name: _replayed(name, text, record) for name, record in records[index].items()}
        for index, text in enumerate(texts)
    ]


def _replayed(arm: str, text: Text, record: dict[str, Any]) -> ReplayedAnswer:
    after = record["after"] and Replayed(**record["after"])
    return ReplayedAnswer(arm, text.answer, Replayed(**record["answer"]), after, text.after_tokens)


class CyclesRecord(schema.Schema):
    """`Replayed` in a part of a run's folder."""

    roots: list[schema.Count]
    accepted: list[schema.Count]
    misses: list[str]


class _Record(schema.Schema):
    answer: CyclesRecord
    after: CyclesRecord | None


def _recorded_group(path: Path, count: int, arms: Sequence[str]) -> list[dict[str, Any]]:
    """What `_replay_group` gave, from a part of the run's folder."""
    hint = f"{option('restart')} starts over."
    records = schema.check_type(list[dict[str, _Record]], schema.read_json(path, hint=hint), path, hint=hint)
    if len(records) != count or any(set(record) != set(arms) for record in records):
        raise ArtifactError(
            path, "its content", f"{count} answers by {', '.join(arms)}", found="of other answers", hint=hint
        )
    return [{name: each.model_dump() for name, each in record.items()} for record in records]


def _replay_group(
    target: Target, arms: Sequence[ReplayArm], texts: Sequence[Text], options: ReplayOptions, new_tokens: int | None
) -> list[dict[str, Any]]:
    """Of each answer by arm, the cycles up to its end of sequence, and those after it if they are asked for."""
    layers = tuple(sorted({tap for arm in arms for tap in arm.drafter.taps}))
    states = dict(target_states(target.model, [text.whole for text in texts], layers=layers))
    parts = [(index, "answer", text.answer) for index, text in enumerate(texts) if text.answer.queries > 0]
    if options.ignore_eos:
        parts += [(index, "after", text.after) for index, text in enumerate(texts) if text.after is not None]
    records: list[dict[str, Any]] = [
        {arm.name: {"answer": asdict(Replayed()), "after": None} for arm in arms} for _ in texts
    ]
    for arm in arms:
        drafter = arm.drafter
        own = [layers.index(tap) for tap in drafter.taps]
        read = {index: States(each.last, tuple(each.taps[tap] for tap in own)) for index, each in states.items()}
        cycles = replay_cycles(
            drafter.head,
            drafter.lm_head,
            [(part, read[index]) for index, _, part in parts],
            tree=drafter.tree,
            new_tokens=new_tokens,
            look_ahead=options.deepest,
            slots=_slots(target, arm, [part for _, _, part in parts]),
        )
        for (index, part, _), each in zip(parts, cycles, strict=True):
            records[index][arm.name][part] = asdict(each)
    return records


def _slots(target: Target, arm: ReplayArm, answers: Sequence[Answer]) -> TextSlots | None:
    """The arm's context slots for some answers; None if it has none."""
    if not arm.context_slots or not answers:
        return None
    drafter = arm.drafter
    return TextSlots(drafter.lm_head, drafter.head.own_lm_head or target.lm_head, arm.context_slots, answers)


def _groups(texts: Sequence[Text]) -> list[list[int]]:
    """Indices of answers of similar length, in groups of at most `_GROUP_TOKENS` ids together."""
    lengths = [len(text.whole.ids) for text in texts]
    groups: list[list[int]] = [[]]
    tokens = 0
    for index in sorted(range(len(texts)), key=lambda index: lengths[index]):
        if groups[-1] and tokens + lengths[index] > _GROUP_TOKENS:
            groups.append([])
            tokens = 0
        groups[-1].append(index)
        tokens += lengths[index]
    return groups


def _record(pipelines: Pipelines, options: ReplayOptions, suite: ReplaySuite, path: Path) -> dict[str, Any]:
    """What a result says about how it was made."""
    target = pipelines[0][0].target
    return {
        "methods": list(options.methods),
        "ks": list(options.ks),
        "curve": options.curve,
        "context_slots": list(options.context_slots),
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
        "ignore_eos": options.ignore_eos,
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
        "model, heads and subsets": [pipeline_identity(each) for by_vocab in pipelines for each in by_vocab],
        "prompts or answers": suite.digest,
    }
