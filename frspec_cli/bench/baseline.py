"""transformers' own `generate`, as one more arm: is plain decoding here a fair baseline?"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from frspec_cli.decoding.attention import use_kernel
from frspec_cli.decoding.engine import Generation
from frspec_cli.models.target import Target


class TransformersBaseline:
    """Greedy `model.generate` with its dynamic (or static) cache and its own SDPA attention.

    Of its time only the total is known: prefill is measured by a `generate` of one token.
    """

    k = 0

    def __init__(self, target: Target, *, cache: str = "dynamic") -> None:
        self.target = target
        self.cache = cache

    @torch.inference_mode()
    def complete(self, prompt_ids: Sequence[int], *, max_new_tokens: int, ignore_eos: bool = False) -> Generation:
        """Decodes one text. ignore_eos: always `max_new_tokens` tokens."""
        model = self.target.model
        model.set_attn_implementation("sdpa")
        begun = time.perf_counter()
        ids = torch.tensor([list(prompt_ids)], device=self.target.device)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=None if ignore_eos else list(self.target.eos_ids),
            pad_token_id=0,
            cache_implementation=None if self.cache == "dynamic" else self.cache,
        )
        token_ids = out[0, len(prompt_ids) :].tolist()
        total = time.perf_counter() - begun
        use_kernel(model)
        seconds = {"total": total, "prefill": 0.0, "draft": 0.0, "verify": total, "other": 0.0}
        return Generation(
            token_ids=token_ids, accepted=[0] * (len(token_ids) - 1), prompt_tokens=len(prompt_ids), seconds=seconds
        )
