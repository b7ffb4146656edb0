"""The target's features over recorded answers: computed with each batch (online), or once and kept as safetensors (disk).

On disk a shard holds a few dozen answers; it is computed when first used (one batched pass of the frozen target) and then
read. Online nothing is kept: every pass over the answers runs the target again. The teacher's distribution is its m most
probable tokens, with probabilities taken in float32 over the whole vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from frspec_cli import storage
from frspec_cli.answers.records import Answer, fingerprint
from frspec_cli.answers.states import States, target_states
from frspec_cli.errors import ArtifactError, FrspecError
from frspec_cli.models.lm_head import lm_head_of
from frspec_cli.tensor_files import read_safetensors, write_safetensors
from frspec_cli.training.ranks import Ranks

FEATURES_VERSION = 1
SHARD_ANSWERS = 32
TEACHER_TOKENS = 32
_LOGIT_ROWS = 512  # rows of full-vocabulary logits held at once


@dataclass(frozen=True, eq=False)
class Features(States):
    """The target's states over one answer, and its distributions of the answered tokens.

    Row q is the distribution of id prompt_length + 1 + q; there are Q = `queries` rows.
    teacher_ids: int64 [Q, m], most probable first.
    teacher_probabilities: float32 [Q, m].
    """

    teacher_ids: torch.Tensor
    teacher_probabilities: torch.Tensor


class FeatureSource(Protocol):
    """The features of a run's answers, by their indices."""

    def take(self, indices: Sequence[int]) -> list[Features]:
        """The features of a batch of answers; the same batch gives the same bits."""

    def prepare(self, indices: Sequence[int], ranks: Ranks) -> None:
        """Called by all ranks alike, before a step, with the answers that the step takes on any of them."""


class OnlineFeatures:
    """Features of `answers`, computed when they are asked for, on the target's device.

    model: the target, transformers' causal LM, frozen.
    taps: `hidden_states` indices.
    """

    def __init__(self, model: Any, answers: list[Answer], *, taps: tuple[int, ...]) -> None:
        self.model = model
        self.answers = answers
        self.taps = taps

    def take(self, indices: Sequence[int]) -> list[Features]:
        """The features of a batch of answers, from batched passes of the target over them and no others."""
        found = dict(target_features(self.model, [self.answers[i] for i in indices], taps=self.taps))
        return [found[place] for place in range(len(indices))]

    def prepare(self, indices: Sequence[int], ranks: Ranks) -> None:
        """Nothing: each rank computes its own batches."""


class FeatureStore:
    """Features of `answers` by index, shard by shard in `folder`.

    model: the target, transformers' causal LM, frozen.
    taps: `hidden_states` indices.
    identity: tells targets apart; shards of other inputs have other names, so they are never mixed up.
    keep: shards held in memory.
    """

    def __init__(
        self, model: Any, answers: list[Answer], *, taps: tuple[int, ...], folder: Path, identity: str, keep: int = 16
    ) -> None:
        self.model = model
        self.answers = answers
        self.taps = taps
        self.folder = folder
        self.identity = identity
        self._keep = keep
        self._loaded: OrderedDict[int, dict[str, torch.Tensor]] = OrderedDict()
        self._prepared: set[int] = set()

    def take(self, indices: Sequence[int]) -> list[Features]:
        """The features of a batch of answers."""
        return [self[index] for index in indices]

    def prepare(self, indices: Sequence[int], ranks: Ranks) -> None:
        """Makes the missing shards of these answers, each on one rank only, and waits for those of the other ranks.

        All ranks have prepared the same shards before, so they agree on which are new. Where ranks share no disk, each
        makes those that it does not find (see `__getitem__`).
        """
        new = sorted({index // SHARD_ANSWERS for index in indices} - self._prepared)
        if not new or ranks.count == 1:
            return
        for number in new[ranks.index :: ranks.count]:
            self._make(number)
        ranks.wait()
        self._prepared.update(new)

    def __getitem__(self, index: int) -> Features:
        """Features of answer `index`; its whole shard is computed if it is not on disk."""
        tensors = self._shard(index // SHARD_ANSWERS)
        stacked = tensors[f"{index}.taps"]
        return Features(
            tensors[f"{index}.last"],
            tuple(stacked.unbind(0)),
            tensors[f"{index}.teacher_ids"].to(torch.int64),
            tensors[f"{index}.teacher_probabilities"],
        )

    def _shard(self, number: int) -> dict[str, torch.Tensor]:
        if number not in self._loaded:
            self._loaded[number] = self._read(self._make(number), number)
            while len(self._loaded) > self._keep:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(number)
        return self._loaded[number]

    def _make(self, number: int) -> Path:
        """The file of a shard, computed if it is not there."""
        path = self._path(number)
        if not path.is_file():
            with storage.atomic_path(path) as temporary:
                write_safetensors(self._compute(number), temporary, metadata={})
        return path

    def _read(self, path: Path, number: int) -> dict[str, torch.Tensor]:
        """The tensors of a shard. Raises `FrspecError` if the file is damaged, or is not the shard that its name says."""
        hint = "Remove it: it is computed again."
        try:
            tensors = read_safetensors(path)
        except FrspecError as error:
            raise FrspecError(error.message, hint=hint) from None
        rows = len(self.model.get_input_embeddings().weight)
        size = self.model.config.get_text_config().hidden_size
        for index in self._members(number):
            answer = self.answers[index]
            queries, states = answer.queries, len(answer.ids) - 1
            shapes = {"last": (states, size), "taps": (len(self.taps), states, size)}
            shapes |= dict.fromkeys(("teacher_ids", "teacher_probabilities"), (queries, min(TEACHER_TOKENS, rows)))
            for part, shape in shapes.items():
                tensor = tensors.get(f"{index}.{part}")
                if tensor is None or tensor.shape != shape or tensor.is_floating_point() == (part == "teacher_ids"):
                    found = "missing" if tensor is None else f"{list(tensor.shape)} of {tensor.dtype}"
                    expected = f"{list(shape)} of {'whole numbers' if part == 'teacher_ids' else 'floats'}"
                    raise ArtifactError(path, f"the tensor {index}.{part}", expected, found=found, hint=hint)
            ids = tensors[f"{index}.teacher_ids"]
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
                found = f"{int(ids.min())} to {int(ids.max())}"
                raise ArtifactError(
                    path, f"the tensor {index}.teacher_ids", f"ids below {rows}", found=found, hint=hint
                )
        return tensors

    def _members(self, number: int) -> range:
        return range(number * SHARD_ANSWERS, min((number + 1) * SHARD_ANSWERS, len(self.answers)))

    def _path(self, number: int) -> Path:
        parts = (
            f"v{FEATURES_VERSION}",
            self.identity,
            str(self.model.dtype),
            str(self.taps),
            str(TEACHER_TOKENS),
            str(number),
            fingerprint([self.answers[i] for i in self._members(number)]),
        )
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
        return self.folder / f"features-{number:05d}-{key}.safetensors"

    def _compute(self, number: int) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        members = self._members(number)
        for place, found in target_features(self.model, [self.answers[i] for i in members], taps=self.taps):
            i, last = members[place], found.last
            taps = torch.stack(found.taps) if found.taps else last.new_zeros(0, *last.shape)
            tensors[f"{i}.last"] = last.cpu().contiguous()
            tensors[f"{i}.taps"] = taps.cpu().contiguous()
            tensors[f"{i}.teacher_ids"] = found.teacher_ids.to(torch.int32).cpu()
            tensors[f"{i}.teacher_probabilities"] = found.teacher_probabilities.cpu()
        return tensors


def target_features(model: Any, answers: Sequence[Answer], *, taps: tuple[int, ...]) -> Iterator[tuple[int, Features]]:
    """(index, features on the model's device) of every answer, shortest first; passes hold answers of similar length."""
    for place, states in target_states(model, answers, layers=taps):
        ids, probabilities = _teacher(model, states.last[answers[place].prompt_length :])
        yield place, Features(states.last, states.taps, ids, probabilities)


@torch.no_grad()
def _teacher(model: Any, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """last [Q, H] -> the m most probable ids int64 [Q, m] and their probabilities float32 [Q, m]."""
    head = lm_head_of(model)
    ids, probabilities = [], []
    for chunk in last.split(_LOGIT_ROWS):
        logits = head(chunk).float()
        top = logits.topk(min(TEACHER_TOKENS, logits.shape[-1]))
        ids.append(top.indices)
        probabilities.append((top.values - logits.logsumexp(-1, keepdim=True)).exp())
    return torch.cat(ids), torch.cat(probabilities)


def feature_bytes(answers: Sequence[Answer], *, states: int, size: int, itemsize: int) -> int:
    """What the shards of these answers take on disk.

    states: hidden states kept of each position, the last one and the taps.
    size: of a hidden state.
    itemsize: bytes of each of its numbers.
    """
    positions, queries = sum(len(answer.ids) - 1 for answer in answers), sum(answer.queries for answer in answers)
    return positions * states * size * itemsize + queries * TEACHER_TOKENS * 8
