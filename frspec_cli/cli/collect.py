"""`frspec collect`: the target answers prompts; its answers are training data and the best corpus to count."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from frspec_cli import outputs
from frspec_cli.answers.options import CollectOptions
from frspec_cli.cli import options
from frspec_cli.cli.examples import EXAMPLES
from frspec_cli.cli.output import Output
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import UsageError
from frspec_cli.progress import Callbacks

_DEFAULTS = CollectOptions()


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="The answers: .jsonl or .jsonl.zst.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help='JSONL (.jsonl, .gz, .zst) of {"prompt"}, Spec-Bench\'s {"turns"} (first turn), conversations '
            '({"messages"} or {"conversations"}: the last turn is answered), or {"text"} to be continued as it is.',
        ),
    ] = None,
    prompts_argument: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    model: options.Model = options.DEFAULT_MODEL,
    max_new_tokens: options.MaxNewTokens = _DEFAULTS.max_new_tokens,
    temperature: options.Temperature = _DEFAULTS.sampling.temperature,
    top_p: options.TopP = _DEFAULTS.sampling.top_p,
    seed: options.Seed = _DEFAULTS.sampling.seed,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use the first N prompts.")] = _DEFAULTS.limit,
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-prompt-tokens",
            min=1,
            help='Leave out longer prompts; cut a longer {"text"}. Default: what fits into the context.',
        ),
    ] = _DEFAULTS.max_prompt_tokens,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Prompts answered at once.")
    ] = _DEFAULTS.batch_size,
    all_turns: Annotated[
        bool, typer.Option("--all-turns", help="Of conversations, answer every turn of the assistant's, not the last.")
    ] = _DEFAULTS.all_turns,
    raw: options.Raw = _DEFAULTS.raw,
    restart: options.Restart = False,
    force: options.Force = False,
    device: options.Device = None,
    dtype: options.Dtype = "bfloat16",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Let the target answer prompts: training data for a draft head, and the best corpus to count.

    The records hold the generated token ids, and whether the answer ended by itself. A stopped run resumes when the same
    command is given again, and writes what an undisturbed run would have written.
    """
    collect_options = CollectOptions(
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=temperature, top_p=top_p, seed=seed),
        batch_size=batch_size,
        raw=raw,
        limit=limit,
        max_prompt_tokens=max_prompt_tokens,
        all_turns=all_turns,
    )
    prompts = _one(prompts, prompts_argument)
    out = outputs.check(out, inputs=[prompts, model], replaces=outputs.ANSWERS, what="a file of answers", force=force)
    output = Output(as_json=as_json, quiet=quiet, out=out)

    from frspec_cli.answers.collect import collect
    from frspec_cli.answers.prompts import read_prompts
    from frspec_cli.models.target import load_target

    read_prompts(prompts, limit=1, texts=True)  # a wrong file is reported before the model is loaded
    target = load_target(model, device=device, dtype=dtype, hybrid=True)
    with _Bar(output) as bar:
        result = collect(target, prompts, out, collect_options, callbacks=bar.callbacks(), restart=restart, force=force)
    rate = result.new_tokens / max(result.seconds, 1e-9)
    output.result(
        {
            "out": str(out),
            "answers": result.answers,
            "tokens": result.tokens,
            "stopped": result.stopped,
            "left_out": result.left_out,
            "seconds": round(result.seconds, 3),
            "tokens_per_second": round(rate, 1),
        },
        f"{result.answers:,} answers, {result.tokens:,} tokens, {result.stopped / result.answers:.0%} finished before "
        f"the token limit; {rate:,.0f} tokens/s -> {out}",
    )


def _one(prompts: Path | None, argument: Path | None) -> Path:
    """The file of prompts, given as an option or, as it once was, as an argument."""
    if prompts is not None and argument is not None:
        raise UsageError(f"{argument} is one argument too many: the prompts are --prompts {prompts}.")
    if prompts is None and argument is None:
        raise UsageError("--prompts is missing.", hint=f"For example: {EXAMPLES['collect'][0]}")
    return Path(prompts or argument or "")


class _Bar:
    """Answers, tokens/s and the time left; off a terminal, a line a minute."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.progress = output.long_progress("answering", whole_numbers=True)
        self.answers = self.total = self.tokens = 0
        self.began, self.now_and_then = time.monotonic(), output.now_and_then("answering")

    def __enter__(self) -> _Bar:
        self.progress.start()
        self.task = self.progress.add_task("answering", total=None, talk="")
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def callbacks(self) -> Callbacks:
        return Callbacks(say=self.output.say, begin=self._begin, advance=self._advance, finished=self._finished)

    def _begin(self, answers: int) -> None:
        self.total, self.began = answers, time.monotonic()
        self.progress.update(self.task, total=answers)

    def _advance(self, **amounts: int) -> None:
        self.tokens += amounts["tokens"]
        self.progress.update(self.task, talk=self._rate())
        self.now_and_then(self.answers, self.total, self._rate())

    def _finished(self, answers: int) -> None:
        self.answers += answers
        self.progress.advance(self.task, answers)
        self.now_and_then(self.answers, self.total, self._rate())

    def _rate(self) -> str:
        return f"{self.tokens / max(time.monotonic() - self.began, 1e-3):,.0f} tokens/s"
