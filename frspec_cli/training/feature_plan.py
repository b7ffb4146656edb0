"""Where a run's features are: computed with each batch, or kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from frspec_cli.answers.records import Answer
from frspec_cli.heads.config import HeadConfig
from frspec_cli.models.identity import target_identity
from frspec_cli.models.target import Target
from frspec_cli.training.features import FeatureSource, FeatureStore, OnlineFeatures, feature_bytes
from frspec_cli.training.options import FeaturesMode, chosen_mode


@dataclass(frozen=True, eq=False)
class FeaturePlan:
    """A run's choice.

    mode: "online" or "disk".
    size: bytes that the features of the answers trained on take on disk, or would take.
    model: the target, transformers' causal LM, frozen.
    taps: `hidden_states` indices.
    folder: of the shards; None for the run's own.
    identity: the target's.
    """

    mode: Literal["online", "disk"]
    size: int
    model: Any
    taps: tuple[int, ...]
    folder: Path | None
    identity: str

    def said(self) -> str:
        """The plan in a sentence."""
        size = f"{self.size / 1e9:,.1f} GB" if self.size >= 1e8 else f"{self.size / 1e6:,.1f} MB"
        if self.mode == "disk":
            return f"the target's features are computed once and kept on disk, {size} in all"
        return f"the target's features are computed with each batch and not kept: on disk they would take {size}"

    def source(self, answers: list[Answer], own: Path) -> FeatureSource:
        """The features of `answers`; own: the run's own folder for shards."""
        if self.mode == "online":
            return OnlineFeatures(self.model, answers, taps=self.taps)
        return FeatureStore(self.model, answers, taps=self.taps, folder=self.folder or own, identity=self.identity)


def plan_features(
    target: Target,
    config: HeadConfig,
    answers: Sequence[Answer],
    *,
    mode: FeaturesMode,
    folder: Path | None,
    epochs: int,
) -> FeaturePlan:
    """Where the features of these answers will be; equal inputs give an equal plan, so a resumed run keeps its own.

    config: the head's.
    folder: of the shards, if the user names one.
    """
    states, hidden = 1 + len(config.taps), config.feature_size
    size = feature_bytes(answers, states=states, size=hidden, itemsize=target.dtype.itemsize)
    chosen = chosen_mode(mode, folder=folder, epochs=epochs, size=size)
    return FeaturePlan(chosen, size, target.model, config.taps, folder, target_identity(target))
