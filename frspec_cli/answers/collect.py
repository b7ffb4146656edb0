"""Training data: the target answers a file of prompts, resumable, in the prompts' order.

Prompts of like length are answered together, the longest first (what does not fit into memory shows at once). Which
prompts share a batch depends on the prompts and the options alone, and each finished batch lands whole in `OUT.ledger/`:
a run that was killed goes on with the next batch and writes the very bytes of an undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frspec_cli import storage
from frspec_cli.answers.batched_decode import Completion, TokenizedPrompt, decode_batch
from frspec_cli.answers.prompts import Prompt, read_prompts
from frspec_cli.answers.soft_counts import SoftCounts, answered, soft_table
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.decoding.text import decode
from frspec_cli.errors import FrspecError
from frspec_cli.models.identity import weights_identity
from frspec_cli.models.target import Target
from frspec_cli.resume import RunFolder, run_folder
from frspec_cli.tokens.tokenizer import load_tokenizer

_VERSION = 1


@dataclass(frozen=True)
class CollectOptions:
    """What the answers depend on, given prompts and target.

    raw: no chat template. max_prompt_tokens: longer prompts are left out, plain texts cut; None: what the context holds.
    """

    max_new_tokens: int = 128
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 32
    raw: bool = False
    limit: int | None = None
    max_prompt_tokens: int | None = None


@dataclass(frozen=True)
class Collected:
    """What a run came to. answers, tokens: all that OUT holds. stopped: answers that ended by themselves. left_out:
    prompts that were too long. made: tokens made by this very run, in `seconds`."""

    answers: int
    tokens: int
    stopped: int
    left_out: int
    made: int
    seconds: float


@dataclass
class Listener:
    """Who is told what: say a sentence, begin(answers to make), made(tokens), finished(answers)."""

    say: Callable[[str], None] = lambda text: None
    begin: Callable[[int], None] = lambda answers: None
    made: Callable[[int], None] = lambda tokens: None
    finished: Callable[[int], None] = lambda answers: None


def collect(
    target: Target,
    prompts: Path,
    out: Path,
    options: CollectOptions,
    *,
    soft_counts: Path | None = None,
    listener: Listener | None = None,
    restart: bool = False,
) -> Collected:
    """Answers `prompts` into `out` (.jsonl, or .jsonl.zst), one record a line in the prompts' order.

    soft_counts: also write the table of `training.soft_counts` there. Raises `FrspecError` where a stopped run was begun
    with other options (naming the first), or another run is at it.
    """
    listener = listener or Listener()
    began, made = time.monotonic(), 0
    questions, left_out = encode_prompts(target, read_prompts(prompts, limit=options.limit, texts=True), options)
    if left_out:
        listener.say(f"left out {left_out:,} prompts: with the answer they pass {_room(target, options):,} tokens.")
    if not questions:
        raise FrspecError(
            f"{prompts} holds no prompt that fits.", hint="Lower --max-new-tokens or shorten the prompts."
        )
    plan = make_batches(questions, options.batch_size)
    tokenizer = None if soft_counts is None else load_tokenizer(target.name)
    inputs = _inputs(target, questions, options) | {"--soft-counts": soft_counts and soft_counts.name}
    with RunFolder.opened(run_folder(out)) as folder:
        folder.resume(inputs, restart=restart)
        finished = [folder.path(f"batch-{number:06d}.jsonl") for number in range(len(plan))]
        missing = [number for number, path in enumerate(finished) if not path.is_file()]
        if len(missing) < len(plan):
            done = sum(len(members) for members in plan) - sum(len(plan[number]) for number in missing)
            listener.say(f"going on: {done:,} of {len(questions):,} answers are there")
        listener.begin(sum(len(plan[number]) for number in missing))
        for number in missing:
            members = [questions[i] for i in plan[number]]
            soft = None if soft_counts is None else SoftCounts(members)
            replies = _answer(target, members, options, listener.made, soft)
            lines = [to_record(target, q, r, options) for q, r in zip(members, replies, strict=True)]
            if soft is not None:
                soft.write(finished[number].with_suffix(".npz"))  # before the answers, which say that the batch is done
            storage.write_text(finished[number], "".join(lines))
            made += sum(len(reply.ids) for reply in replies)
            listener.finished(len(members))
        lines = _assemble(plan, finished)
        records = [json.loads(line) for line in lines]
        if soft_counts is not None and tokenizer is not None:
            parts = [path.with_suffix(".npz") for path in finished]
            shard, identity = answered(prompts, records), weights_identity(target)
            soft_table(parts, tokenizer, shard=shard, options=_recorded(target, options), model=identity).write(
                soft_counts
            )
        _write(out, "".join(lines))
        folder.remove()
    tokens = sum(len(record["response_token_ids"]) for record in records)
    stopped = sum(record["finish"] == "stop" for record in records)
    return Collected(len(records), tokens, stopped, left_out, made, time.monotonic() - began)


def encode_prompts(target: Target, prompts: list[Prompt], options: CollectOptions) -> tuple[list[TokenizedPrompt], int]:
    """The prompts as token ids, and how many were left out as too long; plain texts are cut instead."""
    room = _room(target, options) - options.max_new_tokens
    if room < 1:
        raise FrspecError(
            f"--max-new-tokens {options.max_new_tokens} leaves no room for a prompt in the model's context of "
            f"{target.config.max_position_embeddings}."
        )
    questions, left_out = [], 0
    for prompt in prompts:
        ids, text = target.prompt_ids(prompt.text, raw=options.raw or prompt.plain), prompt.text
        if len(ids) > room and prompt.plain:
            ids = ids[:room]
            text = decode(target.processor, ids)
        if 0 < len(ids) <= room:
            questions.append(TokenizedPrompt(prompt.id, text, tuple(ids), prompt.category))
        else:
            left_out += 1
    return questions, left_out


def make_batches(questions: list[TokenizedPrompt], size: int) -> list[list[int]]:
    """Indices of the questions, `size` a batch, of like length, longest first."""
    order = sorted(range(len(questions)), key=lambda i: (-len(questions[i].ids), i))
    return [order[start : start + size] for start in range(0, len(order), size)]


def to_record(target: Target, question: TokenizedPrompt, reply: Completion, options: CollectOptions) -> str:
    """A line of the answers' file."""
    record: dict[str, Any] = {
        "id": question.id,
        "conversations": [
            {"role": "user", "content": question.text},
            {"role": "assistant", "content": decode(target.processor, reply.ids)},
        ],
        "prompt_token_ids": list(question.ids),
        "response_token_ids": list(reply.ids),
        "finish": "stop" if reply.stopped else "length",
    }
    if not options.sampling.greedy:
        record["temperature"] = options.sampling.temperature
    if question.source:
        record["source"] = question.source
    return json.dumps(record, ensure_ascii=False) + "\n"


def _room(target: Target, options: CollectOptions) -> int:
    """Tokens that prompt and answer may have together."""
    context = int(target.config.max_position_embeddings)
    if options.max_prompt_tokens is None:
        return context
    return min(context, options.max_prompt_tokens + options.max_new_tokens)


def _answer(
    target: Target,
    questions: list[TokenizedPrompt],
    options: CollectOptions,
    made: Callable[[int], None],
    soft: SoftCounts | None,
) -> list[Completion]:
    import torch

    try:
        return decode_batch(
            target,
            questions,
            max_new_tokens=options.max_new_tokens,
            sampling=options.sampling,
            made=made,
            see=None if soft is None else soft.see,
        )
    except torch.OutOfMemoryError as error:
        raise FrspecError(
            f"{len(questions)} prompts at once do not fit into the memory of {target.device}.",
            hint="Lower --batch-size; what is answered already is kept only with the old one.",
        ) from error


def _inputs(target: Target, questions: list[TokenizedPrompt], options: CollectOptions) -> dict[str, Any]:
    """What the answers depend on, by the names that a user knows them by."""
    asked = hashlib.sha256()
    for question in questions:
        asked.update(json.dumps([question.id, question.text, question.ids, question.source]).encode() + b"\n")
    sampling = options.sampling
    return {
        "version": _VERSION,
        "--model": target.name,
        "model's weights": weights_identity(target),
        "--dtype": str(target.dtype).removeprefix("torch."),
        "--device": target.device.type,
        "--limit": options.limit,
        "--raw": options.raw,
        "--max-new-tokens": options.max_new_tokens,
        "--max-prompt-tokens": options.max_prompt_tokens,
        "--batch-size": options.batch_size,
        "--temperature": sampling.temperature,
        "--top-p": sampling.top_p,
        "--seed": sampling.seed if not sampling.greedy else None,
        "prompts": asked.hexdigest(),
    }


def _recorded(target: Target, options: CollectOptions) -> dict[str, Any]:
    """What decided the answers, for a soft table's metadata."""
    sampling = options.sampling
    return {
        "max_new_tokens": options.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": None if sampling.greedy else sampling.seed,
        "dtype": str(target.dtype).removeprefix("torch."),
    }


def _assemble(plan: list[list[int]], finished: list[Path]) -> list[str]:
    lines: dict[int, str] = {}
    for members, path in zip(plan, finished, strict=True):
        found = path.read_text().split("\n")[:-1]  # not splitlines: texts may hold other line ends
        lines.update(zip(members, (line + "\n" for line in found), strict=True))
    return [lines[index] for index in range(len(lines))]


def _write(out: Path, text: str) -> None:
    data = text.encode()
    if out.suffix == ".zst":
        import zstandard

        data = zstandard.ZstdCompressor(level=12).compress(data)
    storage.write_bytes(out, data)
