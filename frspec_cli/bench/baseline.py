"""transformers' own `generate`, as one more arm: is plain decoding here a fair baseline?

Same weights, dtype, device, prompt ids and number of tokens. What differs is transformers' own: its loop, its cache
(growing, or static), and its SDPA attention, which with grouped heads may copy keys and values to every head.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from frspec_cli.decoding.attention import use_kernel
from frspec_cli.decoding.generation import Generation
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import Target

ATTENTION = "sdpa"
_NEUTRAL = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0}
"""What a model's generation_config.json may set and greedy decoding here never applies."""


class TransformersBaseline:
    """Greedy `model.generate` with its dynamic (or static) cache. cache: "dynamic" or "static".

    After each text `token_seconds` holds the seconds between one token and the next, prefill left out.
    """

    k = 0

    def __init__(self, target: Target, *, cache: str = "dynamic") -> None:
        self.target = target
        self.cache = cache
        self.token_seconds: list[float] = []

    @torch.inference_mode()
    def complete(self, prompt_ids: Sequence[int], *, max_new_tokens: int, ignore_eos: bool = False) -> Generation:
        """Decodes one text. ignore_eos: always `max_new_tokens` tokens."""
        model = self.target.model
        context = int(self.target.config.max_position_embeddings)
        if len(prompt_ids) + max_new_tokens > context:  # generate would run on, past what the model knows
            raise FrspecError(
                f"{len(prompt_ids)} prompt tokens and {max_new_tokens} new ones do not fit into the model's context of "
                f"{context}."
            )
        clock: Any = _Clock()
        ids = torch.tensor([list(prompt_ids)], device=self.target.device)
        model.set_attn_implementation(ATTENTION)
        try:
            begun = time.perf_counter()
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=None if ignore_eos else list(self.target.eos_ids),
                pad_token_id=0,
                cache_implementation=None if self.cache == "dynamic" else self.cache,
                streamer=clock,
                **_NEUTRAL,
            )
            token_ids = out[0, len(prompt_ids) :].tolist()
            total = time.perf_counter() - begun
        finally:
            use_kernel(model)  # the engines' own attention, also if generate raises
        first = clock.times[1]  # the prompt is streamed too
        self.token_seconds = [end - begin for begin, end in pairwise(clock.times[1:])]
        prefill = first - begun
        seconds = {"total": total, "prefill": prefill, "draft": 0.0, "verify": total - prefill, "other": 0.0}
        return Generation(
            token_ids=token_ids, accepted=[0] * (len(token_ids) - 1), prompt_tokens=len(prompt_ids), seconds=seconds
        )


class _Clock:
    """A streamer that records when each token came, and keeps no token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass
