"""End-of-sequence ids: the one place that collects what a model's files declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from frspec_cli.errors import ArtifactError

MOST_IDS = 1 << 24
"""Above any vocabulary's ids."""


def eos_ids(generation: Mapping[str, Any], config: Mapping[str, Any], tokenizer_eos: int | None) -> tuple[int, ...]:
    """Every id that ends a text, sorted.

    generation: the generation config.
    config: the model's config; if it names none itself, that of its text model counts.
    tokenizer_eos: the id of the tokenizer's own end-of-sequence token, or None.
    Raises `ArtifactError` for what is not an id.
    """
    declared = config.get("eos_token_id")
    if declared is None:
        text = config.get("text_config")
        declared = text.get("eos_token_id") if isinstance(text, Mapping) else None
    ids: set[int] = set()
    for file, value in (("generation_config.json", generation.get("eos_token_id")), ("config.json", declared)):
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(each) is int and 0 <= each < MOST_IDS for each in values):
            raise ArtifactError(file, "eos_token_id", "a token id or a list of them", found=repr(value)[:60])
        ids.update(values)
    return tuple(sorted(ids if tokenizer_eos is None else ids | {tokenizer_eos}))
