"""`frspec train-draft`: an EAGLE draft head from the target's own answers."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frspec_cli import outputs
from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.errors import UsageError
from frspec_cli.heads.config import layout_named

if TYPE_CHECKING:
    import torch

    from frspec_cli.tokens.tokenizer import LoadedTokenizer


def command(
    answers: Annotated[
        Path,
        typer.Argument(metavar="ANSWERS", help="The target's answers (.jsonl, .gz, .zst), as `collect` writes them."),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="The target: folder, .gguf, short name, or owner/name.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the head; OUT.training beside it holds the run.")
    ],
    layout: Annotated[
        str,
        typer.Option(
            help="fused (input norms and taps; the best), or what other engines run: eagle2 (no norms, the target's LM "
            "head), eagle3 (three taps, an LM head of its own over --vocab)."
        ),
    ] = "fused",
    vocab: Annotated[
        Path | None, typer.Option("--vocab", help="The subset that an EAGLE-3 head's own LM head is made for.")
    ] = None,
    k: options.K = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the answers.")] = 8,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Use answers up to this many answered tokens.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first N answers.")] = None,
    optimizer: Annotated[str, typer.Option(help="muon (matrices; AdamW for the rest) or adamw (all).")] = "muon",
    learning_rate: Annotated[
        float | None, typer.Option(min=0.0, help="The peak learning rate; default 4e-3, with adamw 1e-3.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Unrolled draft steps (training-time test).")] = 4,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Answered tokens in a batch, padding included.")] = 1024,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Batches added up for one step, in each process: larger steps, no more memory.")
    ] = 1,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes here that train together, one a GPU (torchrun and, on GPUs, accelerate launch do it too).",
        ),
    ] = 1,
    loss: Annotated[
        str, typer.Option(help="sampled (fair to the whole vocabulary), exact, or subset (biased; for experiments).")
    ] = "sampled",
    sampled_rows: Annotated[int, typer.Option(min=1, help="Rows drawn anew each step by --loss sampled.")] = 1024,
    taps: Annotated[
        str, typer.Option(help="hidden_states indices read besides the last, as 2,15,27; none; or auto (three).")
    ] = "auto",
    init: Annotated[Path | None, typer.Option("--init", help="Warm start: weights of this head.")] = None,
    features: Annotated[
        Path | None, typer.Option(help="Where the target's features are kept; runs on the same answers can share it.")
    ] = None,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations by replay.")] = 250,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0.0, help="Seconds between checkpoints: what a killed run may lose.")
    ] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of order, sampled rows and first weights.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: CUDA if there is one.")] = None,
    dtype: Annotated[
        str, typer.Option(help="The target's, and of the matmuls: bfloat16 or float32 (weights train in float32).")
    ] = "bfloat16",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. Another number changes the last bits.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but warnings and errors.")] = False,
) -> None:
    """Train an EAGLE draft head on a target's own answers.

    The head uses the target's LM head (but for --layout eagle3), so that any vocabulary subset fits it, and the loss is
    fair to the whole vocabulary.
    There is a checkpoint every minute and on Ctrl-C; the same command goes on where a stopped run was, to the same bits.
    Validation replays held-out answers, and OUT always holds the best head so far.
    """
    rows = {"sampled": sampled_rows, "exact": None, "subset": 0}
    if loss not in rows:
        raise UsageError(f"--loss {loss} is not one of sampled, exact, subset.")
    if optimizer not in ("muon", "adamw"):
        raise UsageError(f"--optimizer {optimizer} is not one of muon, adamw.")
    if dtype not in ("bfloat16", "float32", "float64"):
        raise UsageError(f"--dtype {dtype} is not one of bfloat16, float32, float64.")
    tapped = _parse_taps(taps)
    layout = layout_named(layout)
    _check_layout(layout, vocab=vocab, k=k, taps=tapped)
    from frspec_cli.heads.files import HEAD, holds_only_head

    out = outputs.check(
        out, inputs=[answers, model, vocab, init, features], kind="folder", replaces=holds_only_head, what=HEAD
    )

    from frspec_cli.training.launch import launch, launched

    if processes > 1 and not launched():
        raise typer.Exit(launch(sys.argv[1:], processes))

    import torch

    from frspec_cli.models.target import load_target
    from frspec_cli.tokens.tokenizer import load_tokenizer
    from frspec_cli.training.optimizer import LEARNING_RATES
    from frspec_cli.training.ranks import Ranks
    from frspec_cli.training.run import RunSettings, Session
    from frspec_cli.training.trainer import TrainOptions

    if threads:
        torch.set_num_threads(threads)
    target = load_target(model, device=_device_of_rank(device), dtype=dtype)
    tokenizer = load_tokenizer(str(target.folder))
    ranks = Ranks(target.device)
    output = Output(as_json=as_json, quiet=quiet or not ranks.main)
    session = Session(
        target,
        answers,
        out,
        TrainOptions(
            epochs=epochs,
            batch_tokens=batch_tokens,
            optimizer=optimizer,  # type: ignore[arg-type]
            learning_rate=LEARNING_RATES[optimizer] if learning_rate is None else learning_rate,  # type: ignore[index]
            steps=steps,
            sampled_rows=rows[loss],
            seed=seed,
            accumulate=accumulate,
        ),
        RunSettings(
            limit=limit,
            max_tokens=max_tokens,
            taps=tapped,
            validate_every=validate_every,
            layout=layout,  # type: ignore[arg-type]
        ),
        initial=init,
        features=features,
        command=command_line(sys.argv[1:]),
        say=output.say,
        warn=output.warn,
        checkpoint_seconds=checkpoint_seconds,
        draft_ids=None if vocab is None else _draft_ids(vocab, k, tokenizer, target.config.vocab_size, output),
        noted={"tokenizer_fingerprint": tokenizer.fingerprint},
        ranks=ranks,
    )
    trainer = session.trainer
    output.say(
        f"{len(session.train_answers):,} answers, {trainer.total_steps:,} steps, {torch.get_num_threads()} threads"
        f"{f', {ranks.count} processes' * (ranks.count > 1)}"
    )
    with output.progress() as bar:
        task = bar.add_task("training", total=trainer.total_steps, completed=trainer.step)
        best = session.train(lambda record, _: bar.update(task, completed=record.step))
    if not ranks.main:
        return
    output.result(
        {"out": str(out), "acceptance_length": round(best, 4), "steps": trainer.step},
        f"best acceptance length {best:.3f} on held-out answers; wrote {out}",
    )


def command_line(arguments: list[str]) -> str:
    """The command as the card quotes it: files and folders by their names, since where they lay means nothing elsewhere.

    A hub id (owner/name) has no folder of that name here, so it stays.
    """
    shown = []
    for argument in arguments:
        option, equals, value = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
        path = Path(value).expanduser()
        local = path.is_absolute() or value.startswith(".") or path.exists() or path.parent.is_dir()
        shown.append(option + equals + (path.name if "/" in value and local else value))
    if shown[:1] != ["train-draft"]:
        shown.insert(0, "train-draft")
    return "frspec " + shlex.join(shown)


def _check_layout(layout: str, *, vocab: Path | None, k: int | None, taps: tuple[int, ...] | None) -> None:
    if layout == "eagle3" and vocab is None:
        raise UsageError("--layout eagle3 has an LM head of its own: name its tokens with --vocab SUBSET.")
    if layout != "eagle3" and vocab is not None:
        raise UsageError(
            f"--layout {layout} uses the target's LM head, so that any subset fits it later: leave out --vocab."
        )
    if k is not None and vocab is None:
        raise UsageError("--k takes a prefix of --vocab, which is not given.")
    if layout == "eagle2" and taps:
        raise UsageError("--layout eagle2 reads the last hidden state only: leave out --taps.")
    if layout == "eagle3" and taps == ():
        raise UsageError("--layout eagle3 reads nothing but its taps: --taps none leaves it without input.")


def _device_of_rank(device: str | None) -> str | None:
    """Each process of several has a GPU of its own."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    if rank is None or device not in (None, "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{rank}"


def _draft_ids(vocab: Path, k: int | None, tokenizer: LoadedTokenizer, rows: int, output: Output) -> torch.Tensor:
    """int64 [K], ascending."""
    import torch

    from frspec_cli.subsets.load import load_subset

    subset = load_subset(vocab, tokenizer=tokenizer, model_rows=rows, k=k, warn=output.warn)
    return torch.from_numpy(subset.token_ids.astype("int64")).sort().values


def _parse_taps(taps: str) -> tuple[int, ...] | None:
    if taps == "auto":
        return None
    if taps == "none":
        return ()
    try:
        return tuple(int(part) for part in taps.split(","))
    except ValueError:
        raise UsageError(f"--taps {taps} is neither auto, none, nor numbers with commas between them.") from None
