"""`frspec train-draft`: an EAGLE draft head or an MTP module from the target's own answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frspec_cli import outputs
from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.heads.config import layout_named
from frspec_cli.training.options import (
    LARGEST_ON_DISK,
    LEARNING_RATES,
    NEGATIVES,
    OBJECTIVES,
    REFERENCE_WIDTH,
    SAMPLED_ROWS,
    TRACKERS,
    RunSettings,
    TrainOptions,
    check_draft_vocabulary,
    check_dtype,
    features_mode_named,
    loss_rows,
    negatives_named,
    objective_named,
    optimizer_named,
    parse_taps,
    trackers_named,
)

if TYPE_CHECKING:
    from frspec_cli.training.trainer import StepRecord

_TRAIN, _RUN = TrainOptions(), RunSettings()
_RATES = ", ".join(f"{rate:g} with {name}" for name, rate in LEARNING_RATES.items())


def command(
    answers: Annotated[
        Path,
        typer.Argument(metavar="ANSWERS", help="The target's answers (.jsonl, .gz, .zst), as `collect` writes them."),
    ],
    model: options.Model,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the head; OUT.training beside it holds the run.")
    ],
    layout: Annotated[
        str,
        typer.Option(
            help="fused (input norms and taps; the best), mtp (a multi-token-prediction module as DeepSeek-V3's), or what "
            "other engines run: eagle2 (no norms, the target's LM head), eagle3 (three taps, an LM head of its own over "
            "--vocab)."
        ),
    ] = _RUN.layout,
    vocab: Annotated[
        Path | None, typer.Option("--vocab", help="The subset that an EAGLE-3 head's own LM head is made for.")
    ] = None,
    k: options.K = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the answers.")] = _TRAIN.epochs,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Use answers up to this many answered tokens.")
    ] = _RUN.max_tokens,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first N answers.")] = _RUN.limit,
    optimizer: Annotated[
        str, typer.Option(help="muon (matrices; AdamW for the rest) or adamw (all).")
    ] = _TRAIN.optimizer,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help=f"The peak learning rate. Default: {_RATES}; less for hidden sizes above {REFERENCE_WIDTH}, as their inverse.",
        ),
    ] = None,
    adamw_learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="The peak for what Muon leaves to AdamW. Default: Muon's for norms, a quarter of it for an own LM head.",
        ),
    ] = None,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")] = _TRAIN.warmup,
    final_rate: Annotated[
        float, typer.Option(help="Share of the peak rate that is left at the last step; it falls linearly.")
    ] = _TRAIN.final_rate,
    clip: Annotated[float, typer.Option(help="Largest norm of a step's gradients.")] = _TRAIN.clip,
    ema: Annotated[
        float,
        typer.Option(
            help="Validate and save a moving average of the weights with this decay, such as 0.999; 0 is off."
        ),
    ] = _TRAIN.ema,
    steps: Annotated[int, typer.Option(min=1, help="Unrolled draft steps (training-time test).")] = _TRAIN.steps,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Answered tokens in a batch; whole answers are packed up to it.")
    ] = _TRAIN.batch_tokens,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Batches added up for one step, in each process: larger steps, no more memory.")
    ] = _TRAIN.accumulate,
    loss: Annotated[
        str | None,
        typer.Option(
            help="sampled (fair to the whole vocabulary), exact, or subset (biased; for experiments). Default: sampled."
        ),
    ] = None,
    sampled_rows: Annotated[
        int | None, typer.Option(min=1, help=f"Rows drawn anew each step by --loss sampled. Default: {SAMPLED_ROWS}.")
    ] = None,
    negatives: Annotated[
        str | None,
        typer.Option(
            help=f"How they are drawn: {' or '.join(NEGATIVES)} (more often what the answers have more often, with weights). "
            f"Default: {NEGATIVES[0]}."
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(OBJECTIVES)}: cross-entropy against the target, or its acceptance (arXiv 2602.23881)."
        ),
    ] = _TRAIN.objective,
    taps: Annotated[
        str, typer.Option(help="hidden_states indices read besides the last, as 2,15,27; none; or auto (three).")
    ] = "auto",
    init: Annotated[Path | None, typer.Option("--init", help="Warm start: weights of this head.")] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="Folder for the target's features; runs on the same answers can share it."),
    ] = None,
    features_mode: Annotated[
        str,
        typer.Option(
            help="disk (each answer's features are computed once and kept), online (with each batch, nothing on disk), or "
            f"auto: disk if --features names a folder, or for several epochs and up to {LARGEST_ON_DISK >> 30} GiB."
        ),
    ] = "auto",
    validate_every: Annotated[
        int, typer.Option(min=1, help="Steps between validations by replay.")
    ] = _RUN.validate_every,
    log_to: Annotated[
        list[str] | None,
        typer.Option(
            "--log-to",
            metavar="|".join(TRACKERS),
            help="Curves besides OUT.training/metrics.jsonl: TensorBoard's event files there, or wandb. May be given twice.",
        ),
    ] = None,
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0.0, help="Seconds between checkpoints: what a killed run may lose.")
    ] = 60.0,
    restart: options.Restart = False,
    force: options.Force = False,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            min=0,
            max=options.LARGEST_SEED,
            help="Fixes the order of answers, the sampled rows and the first weights.",
        ),
    ] = _TRAIN.seed,
    device: options.Device = None,
    dtype: Annotated[
        str, typer.Option(help="The target's, and of the matmuls: bfloat16 or float32 (weights train in float32).")
    ] = "bfloat16",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads. Another number changes the last bits.")
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option("--recompute", help="Compute each draft step again in the backward pass: less memory, more time."),
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say what memory and time it would take on 80 GB cards.")
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train an EAGLE draft head, or an MTP module, on a target's own answers.

    The head uses the target's LM head (except with --layout eagle3), so that any vocabulary subset fits it, and the loss
    is fair to the whole vocabulary.
    Checkpoints are written every minute and on Ctrl-C; the same command resumes a stopped run, to the same bits.
    Validation replays held-out answers, and OUT always holds the best head so far.

    To train on N GPUs: torchrun --nproc-per-node N -m frspec_cli train-draft ANSWERS ...
    """
    layout_name, optimizer_name = layout_named(layout), optimizer_named(optimizer)
    rows = loss_rows(loss, sampled_rows, layout=layout_name)
    train_options = TrainOptions(
        epochs=epochs,
        batch_tokens=batch_tokens,
        optimizer=optimizer_name,
        learning_rate=learning_rate,
        adamw_learning_rate=adamw_learning_rate,
        warmup=warmup,
        final_rate=final_rate,
        steps=steps,
        sampled_rows=rows,
        negatives=negatives_named(negatives, sampled_rows=rows, layout=layout_name),
        objective=objective_named(objective),
        ema=ema,
        clip=clip,
        seed=seed,
        accumulate=accumulate,
    )
    settings = RunSettings(
        limit=limit,
        max_tokens=max_tokens,
        taps=parse_taps(taps),
        validate_every=validate_every,
        layout=layout_name,
    )
    check_draft_vocabulary(layout_name, vocab=vocab, k=k)
    check_dtype(dtype)
    trackers = trackers_named(log_to or [])
    mode = features_mode_named(features_mode, folder=features)

    if estimate:
        from frspec_cli.cli.estimate import show_estimate

        show_estimate(
            Output(as_json=as_json, quiet=quiet),
            model=model,
            answers=answers,
            vocab=vocab,
            k=k,
            options=train_options,
            settings=settings,
            mode=mode,
            features=features,
            recompute=recompute,
        )
        return

    from frspec_cli.heads.files import HEAD, holds_only_head

    out = outputs.check(
        out, inputs=[answers, model, vocab, init, features], kind="folder", replaces=holds_only_head, what=HEAD
    )

    import torch

    from frspec_cli.models.target import load_target
    from frspec_cli.progress import Callbacks
    from frspec_cli.tokens.tokenizer import load_tokenizer
    from frspec_cli.training.card import quoted_command
    from frspec_cli.training.new_head import draft_ids_of
    from frspec_cli.training.ranks import Ranks, rank_device
    from frspec_cli.training.run import RunInputs, open_run
    from frspec_cli.training.trackers import talk

    if threads:
        torch.set_num_threads(threads)
    target = load_target(model, device=rank_device(device), dtype=dtype)
    tokenizer = load_tokenizer(str(target.folder))
    ranks = Ranks(target.device)
    output = Output(as_json=as_json, quiet=quiet or not ranks.main)
    output.busy("preparing the head and the answers")
    draft_ids = None
    if vocab is not None:
        draft_ids = draft_ids_of(vocab, k=k, tokenizer=tokenizer, target=target, warn=output.warn)
    inputs = RunInputs(
        target,
        answers,
        out,
        train_options,
        settings,
        initial=init,
        features_mode=mode,
        features=features,
        draft_ids=draft_ids,
        noted={"tokenizer_fingerprint": tokenizer.fingerprint},
        command=quoted_command(sys.argv[1:], processes=ranks.count),
        log_to=trackers,
        checkpoint_seconds=checkpoint_seconds,
        recompute=recompute,
        restart=restart,
        force=force,
    )
    with open_run(inputs, callbacks=Callbacks(say=output.say, warn=output.warn), ranks=ranks) as run:
        total, threads = run.trainer.total_steps, torch.get_num_threads()
        output.say(
            f"{len(run.answers.trained_on):,} answers, {total:,} step{'s' * (total > 1)}, {threads} thread{'s' * (threads > 1)}"
            f"{f', {ranks.count} processes' * (ranks.count > 1)}"
        )
        with output.long_progress("training", whole_numbers=True) as bar:
            task = bar.add_task("training", total=total, completed=run.trainer.step, talk="")
            now_and_then = output.now_and_then("training, steps")

            def on_step(record: StepRecord, total: int) -> None:
                said = talk(record, run.pace, run.accepts)
                bar.update(task, completed=record.step, talk=said)
                now_and_then(record.step, total, said)

            best = run.train(on_step)
    if not ranks.main:
        return
    output.result(
        {"out": str(out), "acceptance_length": round(best, 4), "steps": total},
        f"best acceptance length {best:.3f} on held-out answers; wrote {out}",
    )
