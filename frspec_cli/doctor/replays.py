"""A head's readings, each replayed over the same answers of its target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from frspec_cli import schema, storage
from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import States, target_states
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.doctor.options import DoctorOptions
from frspec_cli.doctor.readings import Reading, as_filed, other_readings
from frspec_cli.errors import ArtifactError, option
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.models.target import Target
from frspec_cli.replay.cycles import Replayed, replay
from frspec_cli.replay.report import ReplayedAnswer
from frspec_cli.replay.sweep import CyclesRecord
from frspec_cli.resume import RunFolder
from frspec_cli.subsets.subset import VocabularySubset


@dataclass(frozen=True, eq=False)
class DraftSetup:
    """A draft head as it is served: with its target and the subset, if there is one.

    lm_head: the target's.
    recorded: the head's config.json, {} if it has none.
    exact: the same head with all digits of its files, if it is computed with fewer.
    """

    target: Target
    head: EagleHead
    lm_head: LmHead
    subset: VocabularySubset | None = None
    recorded: dict[str, Any] | None = None
    exact: EagleHead | None = None

    @cached_property
    def filed(self) -> Reading:
        """The head as its files say."""
        return as_filed(self.head, self.lm_head, exact=self.exact)

    @cached_property
    def subset_ids(self) -> torch.Tensor | None:
        """int64, the subset's tokens; None without one."""
        return None if self.subset is None else torch.from_numpy(self.subset.token_ids.astype("int64"))


Tried = tuple[Reading, list[ReplayedAnswer]]
"""A reading and its replay."""


class Part(schema.Schema):
    """A finished replay in the run's folder: of what, and each answer's cycles."""

    what: str
    cycles: list[CyclesRecord]


class Replays:
    """Replays over some answers: the target's states are read once, and each replay is kept as soon as it is finished.

    folder: the run's; a resumed run asks for the same replays in the same order.
    name: of these answers, for the parts in the folder.
    new_tokens: no cycle begins once an answer has this many tokens; None for no limit.
    ids: int64, the tokens that are drafted from unless others are asked for: the subset's; None for all.
    """

    def __init__(
        self,
        setup: DraftSetup,
        answers: Sequence[Answer],
        options: DoctorOptions,
        folder: RunFolder,
        *,
        name: str = "cycles",
        new_tokens: int | None = None,
    ) -> None:
        self.setup, self.answers, self.options = setup, list(answers), options
        self.folder, self.name, self.new_tokens = folder, name, new_tokens
        self.count, self.ids = 0, setup.subset_ids
        taps, layers = setup.head.config.taps, setup.target.config.num_hidden_layers
        wanted = {tap + step for tap in taps for step in range(-options.changes, options.changes + 1)}
        self.layers = sorted(tap for tap in wanted if 0 <= tap < layers)
        self.longest = max(len(answer.ids) for answer in self.answers)

    @cached_property
    def states(self) -> dict[int, States]:
        """The target's over each answer, at every tap that any reading may have."""
        return dict(target_states(self.setup.target.model, self.answers, layers=self.layers))

    def others(self, now: Reading) -> list[Reading]:
        """The readings that differ from `now` in one thing."""
        found = other_readings(now, target=self.setup.target.config, rows=self.setup.lm_head, longest=self.longest)
        return [each for each in found if set(each.config.taps) <= set(self.layers) and self._can_draft(each)]

    def _can_draft(self, reading: Reading) -> bool:
        """Whether a reading's rows and the subset have a token in common."""
        ids, rows = self.ids, reading.rows.ids
        return ids is None or rows is None or bool(torch.isin(rows.cpu(), ids).any())

    def replayed(
        self, reading: Reading, *, tree: TreeConfig | None = None, ids: torch.Tensor | Literal["all"] | None = None
    ) -> list[ReplayedAnswer]:
        """Each answer's cycles.

        tree: the options' if it is None.
        ids: draft from these tokens, or from all that the reading has rows for; None for the usual ones.
        """
        tree = tree or self.options.tree
        if ids is None or isinstance(ids, str):
            ids = self.ids if ids is None else None
        size = "" if ids is None else f", {len(ids)} tokens"
        what = f"{reading.what}, tree {tree.depth},{tree.beam},{tree.nodes}{size}"
        path = self.folder.path(f"{self.name}-{self.count:04d}.json")
        self.count += 1
        if not path.is_file():
            cycles = self._replay(reading, tree, ids)
            storage.write_json(path, {"what": what, "cycles": [asdict(each) for each in cycles]})
        hint = f"{option('restart')} starts over."
        part = schema.check(Part, schema.read_json(path, hint=hint), path, hint=hint)
        if part.what != what or len(part.cycles) != len(self.answers):
            raise ArtifactError(path, "its content", f"cycles of {what}", found=f"those of {part.what}", hint=hint)
        found = [Replayed(**each.model_dump()) for each in part.cycles]
        return [ReplayedAnswer(reading.what, a, c) for a, c in zip(self.answers, found, strict=True)]

    def _replay(self, reading: Reading, tree: TreeConfig, ids: torch.Tensor | None) -> list[Replayed]:
        head, rows = reading.built(self.setup.head.embedding_weight)
        places = [self.layers.index(tap) for tap in reading.config.taps]
        texts = [
            (answer, States(self.states[i].last, tuple(self.states[i].taps[place] for place in places)))
            for i, answer in enumerate(self.answers)
        ]
        ahead = max(each.depth for each in self.options.trees)
        rows = rows if ids is None else rows.restrict(ids)
        return replay(head, rows, texts, tree=tree, new_tokens=self.new_tokens, look_ahead=ahead)
