"""End-of-sequence ids: the one place that collects what a model's files declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def eos_ids(generation: Mapping[str, Any], config: Mapping[str, Any], tokenizer_eos: int | None) -> tuple[int, ...]:
    """Every id that ends a text, sorted.

    generation: the generation config.
    config: the model's config; if it names none itself, that of its text model counts.
    tokenizer_eos: the id of the tokenizer's own end-of-sequence token, or None.
    """
    declared = config.get("eos_token_id")
    if declared is None:
        declared = (config.get("text_config") or {}).get("eos_token_id")
    ids: set[int] = set()
    for value in (generation.get("eos_token_id"), declared, tokenizer_eos):
        ids.update([value] if isinstance(value, int) else value or [])
    return tuple(sorted(ids))
