"""`frspec generate`: text to stdout as it comes, what it cost to stderr."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from frspec_cli.cli import complete, options
from frspec_cli.cli.auto import chosen
from frspec_cli.cli.output import Output
from frspec_cli.decoding.options import DEFAULTS, GenerateOptions, Method, check_method
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import UsageError
from frspec_cli.heads.options import yes_or_no
from frspec_cli.tuning.options import AUTO, TreeChoice

if TYPE_CHECKING:
    from frspec_cli.answers.prompts import Prompt
    from frspec_cli.decoding.engine import Engine
    from frspec_cli.decoding.generation import Generation
    from frspec_cli.decoding.pipeline import Pipeline
    from frspec_cli.tuning.choose import Choice, Wanted


def command(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The prompt, in quotes; - reads it from stdin.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help='JSONL of {"prompt"} or Spec-Bench\'s {"turns"} (first turn).')
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use the first N of --prompts.")] = None,
    model: options.Model = options.DEFAULT_MODEL,
    draft: options.Draft = None,
    norm_output: options.NormOutput = None,
    vocab: options.Vocab = None,
    k: options.K = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            autocompletion=complete.methods,
            help="ar (plain), eagle (full LM head), frspec (subset) or lookup (n-grams). "
            "Default: frspec if a head and a subset are available and a draft pays on this machine.",
        ),
    ] = DEFAULTS.method,
    tree: options.Tree = AUTO,
    depth: options.AutoDepth = None,
    beam: options.AutoBeam = None,
    nodes: options.AutoNodes = None,
    context_slots: options.ContextSlots = DEFAULTS.context_slots,
    max_new_tokens: options.MaxNewTokens = DEFAULTS.max_new_tokens,
    temperature: options.Temperature = DEFAULTS.sampling.temperature,
    top_k: Annotated[
        int, typer.Option("--top-k", help="Sample from the K most likely tokens; 0 is off.")
    ] = DEFAULTS.sampling.top_k,
    top_p: options.TopP = DEFAULTS.sampling.top_p,
    min_p: Annotated[
        float, typer.Option("--min-p", help="Leave out tokens less likely than this share of the most likely one.")
    ] = DEFAULTS.sampling.min_p,
    seed: options.Seed = DEFAULTS.sampling.seed,
    raw: options.Raw = DEFAULTS.raw,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", help="End the text before this string; may be given several times.")
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Always generate --max-new-tokens tokens.")
    ] = DEFAULTS.ignore_eos,
    device: options.Device = None,
    dtype: options.AutoDtype = AUTO,
    compiled: options.Compile = False,
    config: options.Config = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Generate text: plain, with EAGLE-2, or with FR-Spec. The method changes the speed, not the text.

    With --prompts and --json, one line per prompt in file order. The same --seed gives the same text with every method.
    """
    if (prompt is None) == (prompts is None):
        both = ", not both" if prompts is not None else ""
        raise UsageError(
            f"give a prompt or --prompts FILE{both}.", hint='For example: frspec generate "Tell me about owls."'
        )
    sizes = TreeChoice.of(tree, depth=depth, beam=beam, nodes=nodes)
    asked = GenerateOptions(
        method=cast(Method | None, method),
        context_slots=context_slots,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed),
        stop=tuple(stop or ()),
        raw=raw,
        ignore_eos=ignore_eos,
    )
    files = {"draft": draft, "vocab": vocab, "k": k, "norm_output": norm_output}
    normed = yes_or_no(norm_output)
    if asked.method is not None:
        check_method(asked.method, **files)
    output = Output(as_json=as_json, quiet=quiet)
    items = _prompts(prompt, prompts, limit)
    from frspec_cli.tuning.choose import Wanted

    wanted = Wanted(
        model, method=method, dtype=dtype, tree=sizes, device=device, compiled=compiled, config=config,
        draft=draft, vocab=None if vocab is None else str(vocab), k=k, drafts=bool(k or context_slots),
    )  # fmt: skip
    choice = chosen(wanted, output)
    pipeline = _load(wanted, choice, normed, output)
    selected = cast(Method, choice.method or pipeline.default_method())
    if selected != "frspec" and choice.method is None:
        missing = "draft head" if pipeline.head is None else "subset"
        output.say(f"no {missing} is available for {model}: --method {selected}")
    if choice.method in (None, method):
        check_method(selected, **files)
    decided = dataclasses.replace(asked, method=selected, tree=choice.tree)
    engine = pipeline.engine(selected, tree=decided.tree, context_slots=context_slots)
    _Run(engine, pipeline, decided, choice, output).decode(items)


def _prompts(prompt: str | None, prompts: Path | None, limit: int | None) -> list[Prompt]:
    from frspec_cli.answers.prompts import Prompt, read_prompts

    if prompts is not None:
        return read_prompts(prompts, limit=limit)
    if prompt == "-":
        Output.rest()  # what is typed would be drawn over
    try:
        return [Prompt(text=sys.stdin.read() if prompt == "-" else str(prompt), id="1")]
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8: {error.reason} at byte {error.start}.") from None


def _load(wanted: Wanted, choice: Choice, norm_output: bool | None, output: Output) -> Pipeline:
    from frspec_cli.decoding.pipeline import load_pipeline
    from frspec_cli.models.target import load_target

    return load_pipeline(
        load_target(wanted.model, device=wanted.device, dtype=choice.dtype),
        draft=wanted.draft,
        vocab=wanted.vocab,
        k=choice.k,
        norm_output=norm_output,
        compiled=wanted.compiled,
        drafts=choice.method not in ("ar", "lookup"),
        warn=output.warn,
    )


@dataclass(frozen=True)
class _Run:
    """One command's engine and options; `decode` runs the prompts and shows what they give."""

    engine: Engine
    pipeline: Pipeline
    options: GenerateOptions
    choice: Choice
    output: Output

    def decode(self, prompts: Sequence[Prompt]) -> None:
        """Of each prompt the text as it comes and a line of statistics, or one JSON object."""
        from frspec_cli.answers.prompts import prompt_ids
        from frspec_cli.decoding.generation import Generation

        if self.engine.compiled:
            self._compile(prompts)
        for number, prompt in enumerate(prompts):
            if number and not self.output.as_json:
                self.output.data("")
            ids = prompt_ids(self.pipeline.target, prompt, raw=self.options.raw)
            generation = Generation(prompt_tokens=len(ids))
            for cycle in self.pipeline.stream(self.engine, ids, self.options):
                generation.add(cycle)
                if not self.output.as_json:
                    self.output.data(cycle.text, end="")
            if self.output.as_json:
                self.output.json(self._record(prompt, generation))
            else:
                self.output.data("")
                self.output.say(self._summary(generation))

    def _compile(self, prompts: Sequence[Prompt]) -> None:
        """Compiles all that these prompts need: no text's seconds contain any of it."""
        from frspec_cli.answers.prompts import prompt_ids
        from frspec_cli.decoding.warm_up import warm_up

        self.output.say("compiling, before the clock starts")
        tokenized = [prompt_ids(self.pipeline.target, prompt, raw=self.options.raw) for prompt in prompts]
        limit, sampling = self.options.max_new_tokens, self.options.sampling
        warm_up(self.engine, tokenized, max_new_tokens=limit, sampling=sampling)

    def _finished(self, generation: Generation) -> bool:
        """Whether the text came to its end before it reached the limit."""
        return not self.options.ignore_eos and generation.token_ids[-1] in self.pipeline.target.eos_ids

    def _record(self, prompt: Prompt, generation: Generation) -> dict[str, Any]:
        drafter, target = self.engine.drafter, self.pipeline.target
        tree = getattr(drafter, "tree", None)
        return {
            "id": prompt.id,
            **({"category": prompt.category} if prompt.category else {}),
            "finish": "stop" if self._finished(generation) else "length",
            "text": generation.text,
            "token_ids": generation.token_ids,
            "prompt_tokens": generation.prompt_tokens,
            "new_tokens": generation.new_tokens,
            "cycles": generation.cycles,
            "acceptance_length": round(generation.acceptance_length, 4),
            "seconds": {name: round(value, 6) for name, value in generation.seconds.items()},
            "tokens_per_second": round(generation.tokens_per_second, 3),
            "decode_tokens_per_second": round(generation.decode_tokens_per_second, 3),
            "method": self.options.method,
            "k": drafter.k or None,
            "depth": drafter.depth or None,
            "beam": tree.beam if tree else None,
            "nodes": drafter.nodes,
            "model": target.name,
            "draft": self.pipeline.draft if self.options.method in ("eagle", "frspec") else None,
            "dtype": str(target.dtype).removeprefix("torch."),
            "device": str(target.device),
            "compiled": self.engine.compiled,
            "seed": self.options.sampling.seed,
            "draft_lm_head": self.pipeline.draft_lm_head(drafter),
            "choice": self.choice.as_json(),
        }

    def _summary(self, generation: Generation) -> str:
        drafter, seconds = self.engine.drafter, generation.seconds
        clauses = [
            f"{generation.new_tokens} tokens in {seconds['total']:.2f} s",
            f"{generation.tokens_per_second:.1f} tokens/s",
            f"acceptance length {generation.acceptance_length:.2f}",
            f"method {self.options.method}" + (f", k {drafter.k:,}" if drafter.k else ""),
        ]
        if drafter.nodes > 1:
            tree = getattr(drafter, "tree", None)
            size = f"depth {tree.depth}, beam {tree.beam}, {tree.nodes} nodes" if tree else f"depth {drafter.depth}"
            draft, verify = (f"{seconds[name] / seconds['total']:.0%}" for name in ("draft", "verify"))
            head = self.pipeline.draft_lm_head(drafter)
            if head is not None:
                size += f", draft LM head {head['bytes'] / 2**20:.1f} of {head['full_bytes'] / 2**20:.1f} MiB"
            clauses.append(f"{size}: draft {draft} of the time, verify {verify}")
        if not (self.options.ignore_eos or self._finished(generation)):
            clauses.append(f"stopped at --max-new-tokens {self.options.max_new_tokens}")
        return " | ".join(clauses)
