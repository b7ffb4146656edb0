"""`frspec train-draft --estimate`: what a training would take on a card, without loading a weight."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from frspec_cli.cli.output import Output
from frspec_cli.training.options import FeaturesMode, RunSettings, TrainOptions, chosen_mode


def show_estimate(
    output: Output,
    *,
    model: str,
    answers: Path,
    vocab: Path | None,
    k: int | None,
    options: TrainOptions,
    settings: RunSettings,
    mode: FeaturesMode,
    features: Path | None,
    recompute: bool,
) -> None:
    """Prints memory and predicted times for answers of the mean length of those in `answers`."""
    from frspec_cli.answers.records import read_answers
    from frspec_cli.heads.config import head_config_for
    from frspec_cli.models.locate import locate_model
    from frspec_cli.models.target import read_model_config
    from frspec_cli.subsets.load import load_subset
    from frspec_cli.tokens.tokenizer import load_tokenizer
    from frspec_cli.training.features import feature_bytes
    from frspec_cli.training.memory import CARDS, Sequences, estimate

    folder = locate_model(model)
    target = read_model_config(model, folder).get_text_config()
    read = read_answers(answers, vocab_size=target.vocab_size, limit=settings.limit)
    prompt, answered = (
        round(sum(lengths) / len(read))
        for lengths in ([each.prompt_length for each in read], [each.response_length for each in read])
    )
    rows = None
    if vocab is not None:
        tokenizer = load_tokenizer(str(folder))
        rows = len(
            load_subset(vocab, tokenizer=tokenizer, model_rows=target.vocab_size, k=k, warn=output.warn).token_ids
        )
    config = head_config_for(target, taps=settings.taps, layout=settings.layout, draft_vocab_size=rows)
    size = feature_bytes(read, states=1 + len(config.taps), size=config.feature_size, itemsize=2)
    chosen = chosen_mode(mode, folder=features, epochs=options.epochs, size=size)
    found = estimate(
        target, config, options, Sequences(prompt, max(answered, 2)), online=chosen == "online", recompute=recompute
    )
    parts = [
        ("the target's weights, bfloat16", found.target),
        ("head, optimizer, embedding, float32", found.head),
        ("a batch through the head", found.step),
        ("a batch through the target (over before that)", found.target_pass),
        ("at once, on each card", found.total),
        ("features on disk" if chosen == "disk" else "features on disk, were they kept", size),
    ]
    title = (
        f"{len(read):,} answers of {prompt} + {answered} tokens on average, {found.tokens:,} answered tokens a batch"
    )
    output.table(title, ["", "GB"], [(name, f"{number / 1e9:,.2f}") for name, number in parts])
    times = []
    for card in CARDS:
        for cards in (1, 8):
            seconds = found.seconds(card, cards=cards)
            times.append((f"{cards} x {card}", f"{seconds:.3g}", f"{cards * found.tokens / seconds:,.0f}"))
    output.table("predicted from operations at 40 % of a card's peak", ["", "seconds a step", "tokens a second"], times)
    by_card = {card: [found.seconds(card, cards=cards) for cards in (1, 8)] for card in CARDS}
    value = asdict(found) | {"total": found.total, "features": size, "features_mode": chosen, "seconds": by_card}
    output.result(value, f"{found.total / 1e9:,.1f} GB at once on each card; nothing was trained")
