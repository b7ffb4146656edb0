"""What `train-draft` is asked to do. No torch here: the command line takes its choices and defaults from this module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.errors import UsageError, not_one_of, option
from frspec_cli.heads.config import Layout

OptimizerName = Literal["muon", "adamw"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
LEARNING_RATES: dict[OptimizerName, float] = {"muon": 4e-3, "adamw": 1e-3}
"""Peaks that suit a head of a few million parameters (docs/log.md)."""
REFERENCE_WIDTH = 640
"""Hidden size up to which they hold; above, they fall as its inverse."""

TrackerName = Literal["tensorboard", "wandb"]
TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)

FeaturesMode = Literal["auto", "online", "disk"]
FEATURES_MODES: tuple[FeaturesMode, ...] = get_args(FeaturesMode)
LARGEST_ON_DISK = 16 << 30
"""Bytes of features that `auto` keeps on disk: one epoch's passes of the target are saved in each later epoch."""

LossName = Literal["sampled", "exact", "subset"]
LOSSES: tuple[LossName, ...] = get_args(LossName)
SAMPLED_ROWS = 1024
NegativesName = Literal["uniform", "frequency"]
NEGATIVES: tuple[NegativesName, ...] = get_args(NegativesName)
ObjectiveName = Literal["kl", "lk-alpha", "lk-lambda"]
OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
DTYPES = ("bfloat16", "float32", "float64")


@dataclass(frozen=True)
class TrainOptions:
    """What determines the weights, given answers and target.

    epochs: passes over the answers.
    batch_tokens: answered tokens of a batch at most, whole answers (one at least).
    learning_rate: the peak; None for the optimizer's default at the head's width (`learning_rates`). Warm-up over the first
        `warmup` share of the steps, then linear to `final_rate`, a share of the peak.
    adamw_learning_rate: the peak of what Muon leaves to AdamW (norms, biases, an LM head of the head's own).
    steps: unrolled draft steps; step k weighs decay^k.
    sampled_rows: see `training.loss`; None is the exact loss, 0 the biased subset-only one. A head with an LM head of its
        own always takes its own rows.
    negatives: how they are drawn: all alike, or by the 3/4th power of (how often the answers have the token, plus 1).
    objective: see `training.loss`.
    ema: decay of the moving average of the weights, which is what is validated and saved; 0 for the weights themselves.
    accumulate: batches that each process adds up before a step.
    """

    epochs: int = 8
    batch_tokens: int = 1024
    optimizer: OptimizerName = "muon"
    learning_rate: float | None = None
    adamw_learning_rate: float | None = None
    warmup: float = 0.03
    final_rate: float = 0.01
    steps: int = 4
    decay: float = 0.8
    sampled_rows: int | None = SAMPLED_ROWS
    negatives: NegativesName = "uniform"
    objective: ObjectiveName = "kl"
    ema: float = 0.0
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    accumulate: int = 1

    def __post_init__(self) -> None:
        optimizer_named(self.optimizer)
        for name in ("epochs", "batch_tokens", "steps", "accumulate"):
            if getattr(self, name) < 1:
                raise UsageError(f"{option(name)} must be at least 1, not {getattr(self, name)}.")
        for name, most in (("warmup", 1.0), ("final_rate", 1.0), ("ema", 1.0 - 1e-9)):
            if not 0.0 <= getattr(self, name) <= most:
                raise UsageError(
                    f"{option(name)} {getattr(self, name):g} is not between 0 and 1{', 1 excluded' * (most < 1)}."
                )
        if not self.clip > 0:
            raise UsageError(f"{option('clip')} {self.clip:g} is not above 0.")
        if self.optimizer == "adamw" and self.adamw_learning_rate is not None:
            raise UsageError(
                f"{option('adamw_learning_rate')} is for what Muon leaves to AdamW: with {option('optimizer')} adamw, "
                f"{option('learning_rate')} is the rate of all weights."
            )


@dataclass(frozen=True)
class LearningRates:
    """Peaks. matrices: of Muon's matrices, or of all weights under AdamW; rest: of what Muon leaves to AdamW."""

    matrices: float
    rest: float


def learning_rates(options: TrainOptions, *, width: int, own_rows: bool) -> LearningRates:
    """The peak learning rates of a head.

    width: its hidden size.
    own_rows: whether it has an LM head of its own. That gets AdamW's default rate, a quarter of Muon's; norms alone, which
        are all that is left in other layouts, get Muon's.
    """
    matrices = options.learning_rate
    if matrices is None:
        matrices = LEARNING_RATES[options.optimizer] * min(1.0, REFERENCE_WIDTH / width)
    if options.optimizer == "adamw":
        return LearningRates(matrices, matrices)
    share = LEARNING_RATES["adamw"] / LEARNING_RATES["muon"] if own_rows else 1.0
    rest = options.adamw_learning_rate
    return LearningRates(matrices, matrices * share if rest is None else rest)


@dataclass(frozen=True)
class RunSettings:
    """What a run depends on besides `TrainOptions`; none of it may change on resume.

    limit: use the first N answers; None for all.
    max_tokens: stop taking answers once they hold this many answered tokens.
    taps: `hidden_states` indices; None for the default.
    validate_every: steps between validations, on the first `validation_answers` of the held-out answers.
    tree: the tree that validation replays with.
    layout: the new head's.
    """

    limit: int | None = None
    max_tokens: int | None = None
    taps: tuple[int, ...] | None = None
    validate_every: int = 250
    validation_answers: int = 48
    tree: TreeConfig = field(default_factory=TreeConfig)
    layout: Layout = "fused"

    def __post_init__(self) -> None:
        for name in ("limit", "max_tokens", "validate_every", "validation_answers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{option(name)} must be at least 1, not {value}.")
        taps = self.taps
        if taps is None:
            return
        if self.layout in ("eagle2", "mtp") and taps:
            raise UsageError(
                f"{option('layout')} {self.layout} reads the last hidden state only: leave out {option('taps')}."
            )
        if self.layout == "eagle3" and not taps:
            raise UsageError(
                f"{option('layout')} eagle3 reads nothing but its taps: {option('taps')} none leaves it without input."
            )
        if any(tap < 0 for tap in taps) or list(taps) != sorted(set(taps)):
            raise UsageError(
                f"{option('taps')} {','.join(map(str, taps))} must be indices of hidden states from 0, ascending, each once: "
                "engines hand them to a head in the order of the layers."
            )


def optimizer_named(name: str) -> OptimizerName:
    """The optimizer that an option names. Raises `UsageError` for others."""
    for optimizer in OPTIMIZERS:
        if name == optimizer:
            return optimizer
    raise not_one_of("optimizer", name, OPTIMIZERS)


def trackers_named(names: Sequence[str]) -> tuple[TrackerName, ...]:
    """The trackers that an option names, each once. Raises `UsageError` for others."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"{option('log_to')} {name} is not one of {', '.join(TRACKERS)}.")
    return tuple(tracker for tracker in TRACKERS if tracker in names)


def features_mode_named(name: str, *, folder: Path | None) -> FeaturesMode:
    """The mode that an option names, beside the folder for features, if any. Raises `UsageError` if they do not fit."""
    if name == "online" and folder is not None:
        raise UsageError(f"{option('features')} names a folder, but {option('features_mode')} online writes none.")
    for mode in FEATURES_MODES:
        if name == mode:
            return mode
    raise UsageError(f"{option('features_mode')} {name} is not one of {', '.join(FEATURES_MODES)}.")


def chosen_mode(mode: FeaturesMode, *, folder: Path | None, epochs: int, size: int) -> Literal["online", "disk"]:
    """What `auto` means for features of `size` bytes: disk if a folder is named, or if they are small and read twice."""
    if mode != "auto":
        return mode
    return "disk" if folder is not None or (epochs > 1 and size <= LARGEST_ON_DISK) else "online"


def check_dtype(dtype: str) -> None:
    """Raises `UsageError` for a dtype that a target cannot teach in: float16's range is too small."""
    if dtype not in DTYPES:
        raise not_one_of("dtype", dtype, DTYPES)


def parse_taps(text: str) -> tuple[int, ...] | None:
    """The taps that `auto` (None), `none` (()) or numbers with commas name. Raises `UsageError` for anything else."""
    if text == "auto":
        return None
    if text == "none":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option('taps')} {text} is neither auto, none, nor numbers with commas between them."
        ) from None


def objective_named(name: str) -> ObjectiveName:
    """The objective that an option names. Raises `UsageError` for others."""
    for objective in OBJECTIVES:
        if name == objective:
            return objective
    raise UsageError(f"{option('objective')} {name} is not one of {', '.join(OBJECTIVES)}.")


def negatives_named(name: str | None, *, sampled_rows: int | None, layout: Layout) -> NegativesName:
    """The way of drawing that an option names; None means not given.

    sampled_rows: `TrainOptions.sampled_rows`.
    Raises `UsageError` for others, and if no rows are drawn.
    """
    if name is None:
        return TrainOptions.negatives
    if layout == "eagle3" or not sampled_rows:
        raise UsageError(
            f"{option('negatives')} has no effect unless rows are drawn: {option('loss')} sampled draws them."
        )
    for negatives in NEGATIVES:
        if name == negatives:
            return negatives
    raise UsageError(f"{option('negatives')} {name} is not one of {', '.join(NEGATIVES)}.")


def loss_rows(loss: str | None, sampled_rows: int | None, *, layout: Layout) -> int | None:
    """`TrainOptions.sampled_rows` for a loss by name and a number of sampled rows; None means not given.

    Raises `UsageError` for an unknown loss, and if either means nothing beside the other or for the layout.
    """
    if loss is not None and loss not in LOSSES:
        raise not_one_of("loss", loss, LOSSES)
    for name, value in (("loss", loss), ("sampled_rows", sampled_rows)):
        if layout == "eagle3" and value is not None:
            raise UsageError(
                f"{option(name)} has no effect with {option('layout')} eagle3: its loss covers all rows of its own LM head."
            )
    if loss in ("exact", "subset") and sampled_rows is not None:
        raise UsageError(f"{option('sampled_rows')} has no effect with {option('loss')} {loss}, which samples no rows.")
    match loss:
        case "exact":
            return None
        case "subset":
            return 0
        case _:
            return SAMPLED_ROWS if sampled_rows is None else sampled_rows


def check_draft_vocabulary(layout: Layout, *, vocab: Path | None, k: int | None) -> None:
    """Raises `UsageError` if a subset is given to a layout without an LM head of its own, or missing for EAGLE-3."""
    if layout == "eagle3" and vocab is None:
        raise UsageError(
            f"{option('layout')} eagle3 has an LM head of its own: name its tokens with {option('vocab')} SUBSET."
        )
    if layout != "eagle3" and vocab is not None:
        raise UsageError(
            f"only {option('layout')} eagle3 has an LM head of its own; the other layouts use the target's, so that any "
            f"subset fits later: leave out {option('vocab')}."
        )
    if k is not None and vocab is None:
        raise UsageError(f"{option('k')} takes a prefix of {option('vocab')}, which is not given.")
