"""`frspec collect`: the target answers prompts; its answers are training data and the best corpus to count."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from frspec_cli.cli import options
from frspec_cli.cli.output import Output

_TALK_SECONDS = 60.0


def command(
    prompts: Annotated[
        Path,
        typer.Argument(
            metavar="PROMPTS",
            help='JSONL (.jsonl, .gz, .zst) of {"prompt"}, Spec-Bench\'s {"turns"} (first turn), or {"text"} to go on '
            "with as it stands.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The answers: .jsonl or .jsonl.zst.")],
    soft_counts: Annotated[
        Path | None,
        typer.Option(
            "--soft-counts",
            metavar="COUNTS.parquet",
            help="Also sum the model's probabilities over the answered positions into a table to build subsets from.",
        ),
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    seed: options.Seed = 0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many prompts.")] = None,
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-prompt-tokens",
            min=1,
            help='Longer prompts are left out; a {"text"} is cut. Default: what fits into the context.',
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Prompts answered at once.")] = 32,
    raw: options.Raw = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what a stopped run has answered.")] = False,
    device: options.Device = None,
    dtype: options.Dtype = "bfloat16",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Let the target answer prompts: training data for a draft head, and the best corpus to count.

    The records hold the token ids that the model made, and whether it ended by itself. A run that was stopped goes on
    when the same command is given again, and writes what an undisturbed run would have written.
    """
    from frspec_cli.decoding.sampling import Sampling

    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    output = Output(as_json=as_json, quiet=quiet)

    from frspec_cli.answers.collect import CollectOptions, collect
    from frspec_cli.answers.prompts import read_prompts
    from frspec_cli.counting.count import check_writable
    from frspec_cli.models.target import load_target

    if soft_counts is not None:
        check_writable(soft_counts)
    read_prompts(prompts, limit=1, texts=True)  # a wrong file is told before the model is loaded
    target = load_target(model, device=device, dtype=dtype)
    chosen = CollectOptions(
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        batch_size=batch_size,
        raw=raw,
        limit=limit,
        max_prompt_tokens=max_prompt_tokens,
    )
    with _Bar(output) as bar:
        done = collect(target, prompts, out, chosen, soft_counts=soft_counts, listener=bar.listener(), restart=restart)
    rate = done.made / max(done.seconds, 1e-9)
    output.result(
        {
            "out": str(out),
            "answers": done.answers,
            "tokens": done.tokens,
            "stopped": done.stopped,
            "left_out": done.left_out,
            "seconds": round(done.seconds, 3),
            "tokens_per_second": round(rate, 1),
            **({"soft_counts": str(soft_counts)} if soft_counts else {}),
        },
        f"{done.answers:,} answers, {done.tokens:,} tokens, {done.stopped / done.answers:.0%} ended by themselves; "
        f"{rate:,.0f} tokens/s -> {out}" + (f" and {soft_counts}" if soft_counts else ""),
    )


class _Bar:
    """Answers, tokens/s and the time left; where there is no terminal, a line a minute."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.progress = output.long_progress("answering", whole_numbers=True)
        self.answers = self.total = self.tokens = 0
        self.began = self.told = time.monotonic()

    def __enter__(self) -> _Bar:
        self.progress.start()
        self.task = self.progress.add_task("answering", total=None, talk="")
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def listener(self) -> Any:
        from frspec_cli.answers.collect import Listener

        return Listener(say=self.output.say, begin=self._begin, made=self._made, finished=self._finished)

    def _begin(self, answers: int) -> None:
        self.total, self.began = answers, time.monotonic()
        self.progress.update(self.task, total=answers)

    def _made(self, tokens: int) -> None:
        self.tokens += tokens
        self.progress.update(self.task, talk=self._rate())

    def _finished(self, answers: int) -> None:
        self.answers += answers
        self.progress.advance(self.task, answers)
        if self.progress.disable and time.monotonic() - self.told > _TALK_SECONDS:
            self.told = time.monotonic()
            self.output.say(f"{self.answers:,} of {self.total:,} answers, {self._rate()}")

    def _rate(self) -> str:
        return f"{self.tokens / max(time.monotonic() - self.began, 1e-3):,.0f} tokens/s"
