"""A new family is decoded once in two ways: as transformers runs it, and through frspec's attention, masks and cache.

What a family asks of attention beyond the common arguments may be missing in either without an error, and re-scoring by the
engine's own passes could not tell.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from frspec_cli.decoding.attention import unsupported

TESTED = frozenset(
    {
        "cohere2", "cohere2_moe", "gemma2", "gemma3_text", "granite", "granitemoe", "granitemoeshared", "hyperclovax",
        "llama", "mistral", "nanochat", "olmo2", "phi", "qwen2", "qwen3", "vaultgemma",
    }
)  # fmt: skip
"""Families that the tests hold against transformers, tree by tree."""

TOKENS = 16
LARGEST = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Root mean square of the difference, relative to the logits' own spread, that rounding accounts for at the most."""

_CHECKED: weakref.WeakSet[Any] = weakref.WeakSet()


@torch.inference_mode()
def check_family(engine: Any) -> None:
    """Compares the logits over `TOKENS` ids, if the model is of an untested family and was not compared before.

    engine: an `Engine`.
    Raises `FrspecError` if they differ by more than rounding.
    """
    model, config = engine.target.model, engine.target.config
    if config.model_type in TESTED or model in _CHECKED or engine.device.type == "meta":
        return
    ids = torch.arange(1, TOKENS + 1, device=engine.device) * (engine.target.rows // (TOKENS + 1))
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        stock = model(input_ids=ids[None], use_cache=False).logits[0].double()
    finally:
        model.set_attn_implementation(before)
    workspace, rows, half = engine.workspace(TOKENS), torch.arange(TOKENS, device=engine.device), TOKENS // 2
    try:
        engine.forward(workspace, ids[:half], rows[:half], rows[:half], None, end=half)
    except RuntimeError:
        model(
            input_ids=ids[None], use_cache=False
        )  # with the model's own masks: `attend` refuses those of single heads
        raise
    among = rows[half:, None] >= rows[None, half:]
    ours, _ = engine.forward(workspace, ids[half:], rows[half:], rows[half:], among)
    difference = ours.double() - stock[half:]
    relative = float(difference.square().mean().sqrt() / stock[half:].std())
    if not relative <= LARGEST[engine.target.dtype]:
        raise unsupported(
            model,
            f"gives other logits through frspec's attention and cache than as transformers runs it (they differ by "
            f"{float(difference.abs().max()):.3g} over {TOKENS} tokens)",
        )
    _CHECKED.add(model)
