"""The fields of a target's config that frspec reads, whatever transformers makes of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from frspec_cli.schema import Rows, Schema, check

_Size = Annotated[int, Field(ge=1, le=1 << 18)]
_Heads = Annotated[int, Field(ge=1, le=1 << 12)]


class TextConfig(Schema):
    """Of the text model. Families without attention have no heads; some name a size per layer, which is not read here."""

    vocab_size: Rows
    hidden_size: _Size | None = None
    num_hidden_layers: Annotated[int, Field(ge=1, le=1024)]
    num_attention_heads: _Heads | None = None
    num_key_value_heads: _Heads | None = None
    head_dim: _Size | None = None
    max_position_embeddings: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None


def check_text_config(config: Any, file: Path) -> None:
    """Raises `ArtifactError` unless the sizes that transformers read from `file` are those of a model."""
    text = config.get_text_config()
    varying = (
        getattr(text, "per_layer_attributes", None) or ()
    )  # transformers refuses to read these for the whole model
    values = {name: None if name in varying else getattr(text, name, None) for name in TextConfig.model_fields}
    check(TextConfig, {name: None if isinstance(value, list) else value for name, value in values.items()}, file)
