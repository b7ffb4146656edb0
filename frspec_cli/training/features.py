"""The target's features over recorded answers, computed once and kept as safetensors.

A shard holds a few dozen answers; it is computed when first used (one batched pass of the frozen target) and then read
from disk. The teacher's distribution is kept as its m most probable tokens, with probabilities taken in float32
over the whole vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from frspec_cli import storage
from frspec_cli.answers.records import Answer, fingerprint
from frspec_cli.answers.states import States, target_states
from frspec_cli.errors import ArtifactError, FrspecError
from frspec_cli.models.lm_head import lm_head_of
from frspec_cli.tensor_files import read_safetensors, write_safetensors

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
            path = self._path(number)
            if not path.is_file():
                with storage.atomic_path(path) as temporary:
                    write_safetensors(self._compute(number), temporary, metadata={})
            self._loaded[number] = self._read(path, number)
            while len(self._loaded) > self._keep:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(number)
        return self._loaded[number]

    def _read(self, path: Path, number: int) -> dict[str, torch.Tensor]:
        """The tensors of a shard. Raises `FrspecError` if the file is damaged, or is not the shard that its name says."""
        hint = "Remove it: it is computed again."
        try:
            tensors = read_safetensors(path)
        except FrspecError as error:
            raise FrspecError(error.message, hint=hint) from None
        for index in self._members(number):
            for part, dimensions in (("last", 2), ("taps", 3), ("teacher_ids", 2), ("teacher_probabilities", 2)):
                tensor = tensors.get(f"{index}.{part}")
                if tensor is None or tensor.ndim != dimensions:
                    found = "missing" if tensor is None else f"of the shape {list(tensor.shape)}"
                    raise ArtifactError(
                        path, f"the tensor {index}.{part}", f"{dimensions} dimensions", found=found, hint=hint
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
        for place, states in target_states(self.model, [self.answers[i] for i in members], layers=self.taps):
            i, last = members[place], states.last
            teacher_ids, probabilities = self._teacher(last[self.answers[i].prompt_length :])
            taps = torch.stack(states.taps) if states.taps else last.new_zeros(0, *last.shape)
            tensors[f"{i}.last"] = last.cpu().contiguous()
            tensors[f"{i}.taps"] = taps.cpu().contiguous()
            tensors[f"{i}.teacher_ids"] = teacher_ids.to(torch.int32).cpu()
            tensors[f"{i}.teacher_probabilities"] = probabilities.cpu()
        return tensors

    @torch.no_grad()
    def _teacher(self, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """last [Q, H] -> the m most probable ids int64 [Q, m] and their probabilities float32 [Q, m]."""
        head = lm_head_of(self.model)
        ids, probabilities = [], []
        for chunk in last.split(_LOGIT_ROWS):
            logits = head(chunk).float()
            top = logits.topk(min(TEACHER_TOKENS, logits.shape[-1]))
            ids.append(top.indices)
            probabilities.append((top.values - logits.logsumexp(-1, keepdim=True)).exp())
        return torch.cat(ids), torch.cat(probabilities)
