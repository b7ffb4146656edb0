"""`frspec train-draft`: an EAGLE draft head from the target's own answers."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from frspec_cli.cli.sink import Sink
from frspec_cli.errors import UsageError


def command(
    answers: Annotated[
        Path,
        typer.Argument(metavar="ANSWERS", help="The target's answers (.jsonl, .gz, .zst), as `collect` writes them."),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="The target: folder, .gguf, short name, or owner/name.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the head; OUT.training beside it holds the run.")
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the answers.")] = 8,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Use answers up to this many answered tokens.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first N answers.")] = None,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="AdamW's peak learning rate.")] = 1e-3,
    steps: Annotated[int, typer.Option(min=1, help="Unrolled draft steps (training-time test).")] = 4,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Answered tokens in a batch, padding included.")] = 1024,
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

    The head uses the target's LM head, so that any vocabulary subset fits it. The loss is fair to the whole vocabulary.
    There is a checkpoint every minute and on Ctrl-C; the same command goes on where a stopped run was, to the same bits.
    Validation replays held-out answers, and OUT always holds the best head so far.
    """
    rows = {"sampled": sampled_rows, "exact": None, "subset": 0}
    if loss not in rows:
        raise UsageError(f"--loss {loss} is not one of sampled, exact, subset.")
    if dtype not in ("bfloat16", "float32", "float64"):
        raise UsageError(f"--dtype {dtype} is not one of bfloat16, float32, float64.")
    tapped = _parse_taps(taps)
    sink = Sink(as_json=as_json, quiet=quiet)

    import torch

    from frspec_cli.models.target import load_target
    from frspec_cli.training.session import RunSettings, Session
    from frspec_cli.training.trainer import TrainOptions

    if threads:
        torch.set_num_threads(threads)
    session = Session(
        load_target(model, device=device, dtype=dtype),
        answers,
        out,
        TrainOptions(
            epochs=epochs,
            batch_tokens=batch_tokens,
            learning_rate=learning_rate,
            steps=steps,
            sampled_rows=rows[loss],
            seed=seed,
        ),
        RunSettings(limit=limit, max_tokens=max_tokens, taps=tapped, validate_every=validate_every),
        initial=init,
        features=features,
        command=command_line(sys.argv[1:]),
        say=sink.say,
        checkpoint_seconds=checkpoint_seconds,
    )
    trainer = session.trainer
    sink.say(
        f"{len(session.train_answers):,} answers, {trainer.total_steps:,} steps, {torch.get_num_threads()} threads"
    )
    with sink.progress() as bar:
        task = bar.add_task("training", total=trainer.total_steps, completed=trainer.step)
        best = session.train(lambda record, _: bar.update(task, completed=record.step))
    sink.result(
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


def _parse_taps(taps: str) -> tuple[int, ...] | None:
    if taps == "auto":
        return None
    if taps == "none":
        return ()
    try:
        return tuple(int(part) for part in taps.split(","))
    except ValueError:
        raise UsageError(f"--taps {taps} is neither auto, none, nor numbers with commas between them.") from None
