"""transformers' own `generate`, as one more arm: is plain decoding here a fair baseline?

Same weights, dtype, device, prompt ids and number of tokens. What differs is transformers' own: its loop, its cache
(growing, or static), its prompt lookup, and its SDPA attention, which with grouped heads may copy keys and values to every
head. Sampled ids are transformers' own too: its draws are others than ours.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch

from frspec_cli.decoding.attention import use_kernel
from frspec_cli.decoding.generation import Generation
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import Target

ATTENTION = "sdpa"
LOOKUP_TOKENS = 10
"""What transformers' documentation drafts by prompt lookup."""
_NEUTRAL = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0}
"""What a model's generation_config.json may set and greedy decoding here never applies."""


class TransformersBaseline:
    """`model.generate`.

    cache: "dynamic" or "static".
    lookup: tokens that prompt lookup drafts at once; 0 for plain decoding. Its first pass drafts already, so it is a cycle.

    After each text `token_seconds` holds the seconds between one token and the next, prefill left out.
    """

    k = 0

    def __init__(self, target: Target, *, cache: str = "dynamic", lookup: int = 0) -> None:
        self.target = target
        self.cache = cache
        self.lookup = lookup
        self.token_seconds: list[float] = []

    def complete(
        self,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        ignore_eos: bool = False,
    ) -> Generation:
        """Decodes one text. ignore_eos: always `max_new_tokens` tokens."""
        context = int(self.target.config.max_position_embeddings)
        if len(prompt_ids) + max_new_tokens > context:  # generate would run on, past what the model knows
            raise FrspecError(
                f"{len(prompt_ids)} prompt tokens and {max_new_tokens} new ones do not fit into the model's context of "
                f"{context}."
            )
        clock = _Clock()
        asked = {
            "max_new_tokens": max_new_tokens,
            "eos_token_id": None if ignore_eos else list(self.target.eos_ids),
            **_choice(sampling or Sampling()),
        }
        begun = time.perf_counter()
        token_ids = self._generate(prompt_ids, asked, clock, seed=sampling.seed if sampling else 0)
        total = time.perf_counter() - begun
        times, steps = clock.times[1:], clock.steps[1:]  # the prompt is streamed too
        self.token_seconds = [end - begin for begin, end in pairwise(times)]
        prefill = times[0] - begun
        seconds = {"total": total, "prefill": prefill, "draft": 0.0, "verify": total - prefill, "other": 0.0}
        accepted = [step - 1 for step in (steps if self.lookup else steps[1:])]
        return Generation(token_ids=token_ids, accepted=accepted, prompt_tokens=len(prompt_ids), seconds=seconds)

    @torch.inference_mode()
    def _generate(self, prompt_ids: Sequence[int], asked: dict[str, Any], clock: _Clock, *, seed: int) -> list[int]:
        """The new ids. Neither the model's attention nor torch's own generators are changed by it."""
        model, device = self.target.model, self.target.device
        ids = torch.tensor([list(prompt_ids)], device=device)
        model.set_attn_implementation(ATTENTION)
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(seed)
                out = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    pad_token_id=0,
                    cache_implementation=None if self.cache == "dynamic" else self.cache,
                    prompt_lookup_num_tokens=self.lookup or None,
                    streamer=cast(Any, clock),
                    **asked,
                    **_NEUTRAL,
                )
                return out[0, len(prompt_ids) :].tolist()
        finally:
            use_kernel(model)  # the engines' own attention, also if generate raises


def _choice(sampling: Sampling) -> dict[str, Any]:
    """`generate`'s arguments for how tokens are chosen."""
    if sampling.greedy:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p or None,
    }


class _Clock:
    """A streamer that records when tokens came and how many at once, and keeps none."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.steps: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())
        self.steps.append(value.numel())

    def end(self) -> None:
        pass
