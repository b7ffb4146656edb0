"""The target answers a batch of prompts: left padding, a growing cache, finished rows leave.

Plain decoding, many prompts at once. What is drawn for a prompt depends on the seed and the prompt's id alone, so with
equal logits its answer is the same in any batch; only rounding (the kernels' choice by shape) tells batches apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from frspec_cli.answers.prompts import Prompt, prompt_ids
from frspec_cli.answers.top_p import quick
from frspec_cli.corpus.documents import Message
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.decoding.walk import best
from frspec_cli.models.finite import finite_rows, not_finite
from frspec_cli.models.target import Target

_SAMPLED_ROWS = 8  # sampled at a time: 64 rows of 262,144 float64 are new pages at every step, five times as slow


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as the target reads it.

    id: unique within its file, for the sampling noise is drawn from it.
    text: the user's words.
    ids: the token ids that the target is given.
    source: '' if unknown.
    messages: the conversation, if the prompt is one.
    """

    id: str
    text: str
    ids: tuple[int, ...]
    source: str = ""
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Completion:
    """What the target answered.

    ids: the answered token ids, including the end-of-sequence id if it was generated.
    stopped: whether it was.
    """

    ids: tuple[int, ...]
    stopped: bool


def tokenize(target: Target, prompts: Sequence[Prompt]) -> list[TokenizedPrompt]:
    """The prompts as the target reads them, whatever their lengths; their source is the prompt's category."""
    return [
        TokenizedPrompt(prompt.id, prompt.text, tuple(prompt_ids(target, prompt)), prompt.category, prompt.messages)
        for prompt in prompts
    ]


def make_batches(prompts: Sequence[TokenizedPrompt], size: int) -> list[list[int]]:
    """Indices of the prompts, `size` a batch, of similar length, longest first."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].ids), i))
    return [order[start : start + size] for start in range(0, len(order), size)]


@torch.no_grad()
def decode_batch(
    target: Target,
    prompts: Sequence[TokenizedPrompt],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    ignore_eos: bool = False,
    on_step: Callable[[int], None] = lambda tokens: None,
) -> list[Completion]:
    """One completion per prompt, in their order.

    ignore_eos: continue past the end of sequence, to `max_new_tokens` in all.
    on_step: called after every step with the number of tokens that it generated.
    Raises `FrspecError` if the target's logits are not finite, naming the prompt.
    """
    from transformers import DynamicCache

    device, ends = target.device, set() if ignore_eos else set(target.eos_ids)
    ids, mask = _left_padded(prompts, device)
    choose = _chooser(prompts, sampling, max_new_tokens, device)
    cache: Any = DynamicCache(config=target.model.config)
    completions: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # the prompt of each row of the batch; -1 once it is answered
    lengths = mask.sum(-1, keepdim=True)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for step in range(max_new_tokens):
        logits = _next_logits(target, ids, mask, positions, cache)
        tokens = choose(logits, rows, step)
        read = tokens.masked_fill(~finite_rows(logits), -1).tolist()
        for token, row in zip(read, rows, strict=True):
            if token < 0 <= row:
                met = f"at new token {step + 1} of the answer to prompt {prompts[row].id}"
                raise not_finite(target.model, [*prompts[row].ids, *completions[row]], met)
        rows = _record(read, rows, completions, ends)
        left = [place for place, row in enumerate(rows) if row >= 0]
        on_step(sum(1 for completion in completions if len(completion) > step))
        if not left:
            break
        ids, mask = tokens[:, None], torch.cat((mask, torch.ones_like(lengths)), 1)
        positions = lengths + step
        if 2 * len(left) <= len(rows):  # half of the rows are done: copying the cache once pays
            keep = torch.tensor(left, device=device)
            cache.reorder_cache(keep)  # selects as `batch_select_indices` does, which layers of linear attention lack
            ids, mask, positions, lengths = ids[keep], mask[keep], positions[keep], lengths[keep]
            rows = [rows[place] for place in left]
    return [Completion(tuple(ids), stopped=ids[-1] in ends) for ids in completions]


def _next_logits(
    target: Target, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
) -> torch.Tensor:
    """[B, V] behind the last of the new `ids` [B, T]; the cache grows by T. mask: over all positions so far."""
    out = target.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        # An index, not a slice: bfloat16 linear layers crawl on strided rows (CPU, torch 2.13).
        logits_to_keep=torch.tensor([ids.shape[1] - 1], device=ids.device),
    )
    return out.logits[:, -1]


def _record(tokens: list[int], rows: list[int], completions: list[list[int]], ends: set[int]) -> list[int]:
    """Adds each live row's token to its completion; returns the rows, -1 for those that have ended."""
    for row, token in zip(rows, tokens, strict=True):
        if row >= 0:
            completions[row].append(token)
    return [-1 if row < 0 or token in ends else row for row, token in zip(rows, tokens, strict=True)]


def _left_padded(prompts: Sequence[TokenizedPrompt], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask, int64 [B, T]."""
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[row, width - len(prompt.ids) :] = 1
    return ids.to(device), mask.to(device)


def _chooser(
    prompts: Sequence[TokenizedPrompt], sampling: Sampling, count: int, device: torch.device
) -> Callable[[torch.Tensor, list[int], int], torch.Tensor]:
    """(logits [B, V], the prompt of each row, step) -> token ids int64 [B]."""
    if sampling.greedy:
        return lambda logits, rows, step: best(logits)
    assert len({prompt.id for prompt in prompts}) == len(prompts), "equal ids would get equal noise"
    draws = torch.stack([uniforms(sampling.seed, prompt.id, count) for prompt in prompts]).to(device)
    warpers = [quick(warper) for warper in sampling.warpers()]

    def invert(logits: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        scores = logits.float()
        for warper in warpers:
            scores = warper(None, scores)
        # Inversion: the first token whose cumulative probability passes the draw.
        heights = scores.double().softmax(-1).cumsum(-1)
        reached = torch.searchsorted(heights, drawn[:, None] * heights[:, -1:], right=True)
        return reached.clamp(max=heights.shape[-1] - 1)[:, 0]

    def sample(logits: torch.Tensor, rows: list[int], step: int) -> torch.Tensor:
        parts = zip(logits.split(_SAMPLED_ROWS), draws[rows, step].split(_SAMPLED_ROWS), strict=True)
        return torch.cat([invert(part, drawn) for part, drawn in parts])

    return sample


def uniforms(seed: int, prompt_id: str, count: int) -> torch.Tensor:
    """float64 [count] in [0, 1): the draws of one prompt's answer, a function of seed and prompt id alone."""
    digest = hashlib.sha256(f"{seed}\n{prompt_id}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.rand(count, generator=generator, dtype=torch.float64)
