"""`frspec generate`: text to stdout as it comes, what it cost to stderr."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.errors import UsageError

if TYPE_CHECKING:
    from frspec_cli.decoding.engine import Engine
    from frspec_cli.decoding.generation import Generation
    from frspec_cli.decoding.pipeline import Pipeline
    from frspec_cli.decoding.sampling import Sampling


def command(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads it from stdin.")] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help='JSONL of {"prompt"} or Spec-Bench\'s {"turns"} (first turn).')
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many of --prompts.")] = None,
    model: options.Model = options.DEFAULT_MODEL,
    draft: options.Draft = None,
    vocab: options.Vocab = None,
    k: options.K = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="ar (plain), eagle (full LM head), frspec (subset) or lookup (n-grams). "
            "Default: frspec if a head and a subset are at hand.",
        ),
    ] = None,
    depth: options.Depth = 5,
    beam: options.Beam = 4,
    nodes: options.Nodes = 16,
    context_slots: options.ContextSlots = 0,
    max_new_tokens: options.MaxNewTokens = 128,
    temperature: options.Temperature = 0.0,
    top_k: Annotated[int, typer.Option("--top-k", help="Sample from the K likeliest tokens; 0 is off.")] = 0,
    top_p: options.TopP = 1.0,
    min_p: Annotated[float, typer.Option("--min-p", help="Leave out tokens below this share of the likeliest.")] = 0.0,
    seed: options.Seed = 0,
    raw: options.Raw = False,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="End the text before this string; may be given several times.")
    ] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Always make --max-new-tokens tokens.")] = False,
    device: options.Device = None,
    dtype: options.Dtype = "bfloat16",
    compiled: options.Compile = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Generate text: plain, with EAGLE-2, or with FR-Spec. The method changes the speed, not the text.

    With --prompts and --json, one line per prompt in file order. The same --seed gives the same text with every method.
    """
    if (prompt is None) == (prompts is None):
        raise UsageError("give a prompt or --prompts FILE.", hint='For example: frspec generate "Tell me about owls."')
    from frspec_cli.answers.prompts import Prompt, read_prompts
    from frspec_cli.decoding.pipeline import METHODS
    from frspec_cli.decoding.sampling import Sampling
    from frspec_cli.decoding.tree import TreeConfig

    if method is not None and method not in METHODS:
        raise UsageError(f"--method {method} is not one of {', '.join(METHODS)}.")
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    output = Output(as_json=as_json, quiet=quiet)
    if prompts is not None:
        asked = read_prompts(prompts, limit=limit)
    else:
        asked = [Prompt(text=sys.stdin.read() if prompt == "-" else str(prompt), id="1")]
    parts = _load(model, draft, vocab, k, method, device=device, dtype=dtype, compiled=compiled, output=output)
    chosen: Any = method or parts.default_method()
    if method is None and chosen != "frspec":
        output.say(f"no {'draft head' if parts.head is None else 'subset'} at hand for {model}: --method {chosen}")
    engine = parts.engine(chosen, shape=TreeConfig(depth=depth, beam=beam, nodes=nodes), context_slots=context_slots)
    run = _Run(engine, parts, chosen, sampling, max_new_tokens, ignore_eos, tuple(stop or ()), output)
    for number, item in enumerate(asked):
        if number and not as_json:
            output.data("")
        run.decode(parts.target.prompt_ids(item.text, raw=raw))


def _load(
    model: str,
    draft: str | None,
    vocab: Path | None,
    k: int | None,
    method: str | None,
    *,
    device: str | None,
    dtype: str,
    compiled: bool,
    output: Output,
) -> Pipeline:
    from frspec_cli.decoding.compiling import compiler_for
    from frspec_cli.decoding.pipeline import Pipeline, load_pipeline
    from frspec_cli.models.target import load_target

    target = load_target(model, device=device, dtype=dtype)
    compiler = compiler_for(target.device) if compiled else None
    if method in ("ar", "lookup"):
        return Pipeline(target=target, compiler=compiler)
    named = None if vocab is None else str(vocab)
    return load_pipeline(target, draft=draft, vocab=named, k=k, compiler=compiler, warn=output.warn)


@dataclass(frozen=True)
class _Run:
    """One command's engine and options; `decode` runs and shows one prompt."""

    engine: Engine
    parts: Pipeline
    method: str
    sampling: Sampling
    max_new_tokens: int
    ignore_eos: bool
    stop: tuple[str, ...]
    output: Output

    def decode(self, ids: list[int]) -> None:
        """Text as it comes and a line of statistics, or one JSON object."""
        from frspec_cli.decoding.generation import Generation
        from frspec_cli.decoding.text import StoppedText, StopStrings, TextStream

        generation = Generation(prompt_tokens=len(ids))
        processor = self.parts.target.processor
        stream = StoppedText(TextStream(processor, ids), self.stop)
        for cycle in self.engine.generate(
            ids,
            max_new_tokens=self.max_new_tokens,
            sampling=self.sampling,
            ignore_eos=self.ignore_eos,
            stop=StopStrings(self.stop, processor, ids) if self.stop else None,
        ):
            generation.add(cycle)
            if not self.output.as_json:
                self.output.data(stream.push(cycle.tokens), end="")
        generation.seconds = self.engine.stopwatch.seconds()
        if self.output.as_json:
            self.output.json(self._record(generation))
            return
        self.output.data(stream.rest())
        self.output.say(self._summary(generation))

    def _record(self, generation: Generation) -> dict[str, Any]:
        from frspec_cli.decoding.text import decode

        drafter, target = self.engine.drafter, self.parts.target
        shape = getattr(drafter, "shape", None)
        return {
            "text": decode(target.processor, generation.token_ids, stop=self.stop),
            "token_ids": generation.token_ids,
            "prompt_tokens": generation.prompt_tokens,
            "new_tokens": generation.new_tokens,
            "cycles": generation.cycles,
            "acceptance_length": round(generation.acceptance_length, 4),
            "seconds": {name: round(value, 6) for name, value in generation.seconds.items()},
            "tokens_per_second": round(generation.tokens_per_second, 3),
            "decode_tokens_per_second": round(generation.decode_tokens_per_second, 3),
            "method": self.method,
            "k": drafter.k or None,
            "depth": drafter.depth or None,
            "beam": shape.beam if shape else None,
            "nodes": drafter.nodes,
            "model": target.name,
            "draft": self.parts.draft if self.method in ("eagle", "frspec") else None,
            "dtype": str(target.dtype).removeprefix("torch."),
            "device": str(target.device),
            "compiled": self.engine.compiled,
            "seed": self.sampling.seed,
            "draft_lm_head": self.parts.draft_lm_head(drafter),
        }

    def _summary(self, generation: Generation) -> str:
        drafter, seconds = self.engine.drafter, generation.seconds
        parts = [
            f"{generation.new_tokens} tokens in {seconds['total']:.2f} s",
            f"{generation.tokens_per_second:.1f} tokens/s",
            f"acceptance length {generation.acceptance_length:.2f}",
            f"method {self.method}" + (f", k {drafter.k:,}" if drafter.k else ""),
        ]
        if drafter.nodes > 1:
            shape = getattr(drafter, "shape", None)
            size = f"depth {shape.depth}, beam {shape.beam}, {shape.nodes} nodes" if shape else f"depth {drafter.depth}"
            draft, verify = (f"{seconds[name] / seconds['total']:.0%}" for name in ("draft", "verify"))
            head = self.parts.draft_lm_head(drafter)
            if head is not None:
                size += f", draft LM head {head['bytes'] / 2**20:.1f} of {head['full_bytes'] / 2**20:.1f} MiB"
            parts.append(f"{size}: draft {draft} of the time, verify {verify}")
        return " | ".join(parts)
