"""How many rows a model's embedding has, from its files: config.json, the weights' headers, or the config's class."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from frspec_cli import schema
from frspec_cli.errors import ArtifactError, FrspecError

_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|lm_head|wte|embed_in|embed_out|word_embeddings|tok_embeddings)\.weight$")


def model_rows(folder: Path) -> int | None:
    """The rows of the model in a folder; None if it holds none, or one whose files do not say.

    A config.json may leave its vocabulary to the class (`text_config` of Gemma-3): then the weights tell, and without them
    transformers' default does. Raises `FrspecError` for files that are damaged.
    """
    file = folder / "config.json"
    if not file.is_file():
        return None
    config = schema.read_object(file)
    text = config.get("text_config")
    rows = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    if rows is None:
        rows = _in_weights(folder) or _by_class(config, folder)
    if rows is not None and not (type(rows) is int and 1 <= rows <= schema.MOST_ROWS):
        raise ArtifactError(file, "vocab_size", f"a number from 1 to {schema.MOST_ROWS}", found=schema.shown(rows))
    return rows


def _in_weights(folder: Path) -> int | None:
    """The rows that all embeddings and LM heads in the weights have; None if they differ or are not here."""
    from frspec_cli.models.weight_files import weight_files
    from frspec_cli.tensor_files import safetensors_shapes

    files = {file for name, file in weight_files(folder).items() if _EMBEDDING.search(name)}
    shapes = [shape for file in files if file.is_file() for shape in safetensors_shapes(file).items()]
    rows = {each["shape"][0] for name, each in shapes if _EMBEDDING.search(name) and len(each["shape"]) == 2}
    return rows.pop() if len(rows) == 1 else None


def _by_class(config: dict[str, Any], folder: Path) -> int | None:
    """What transformers makes of the config; None if it does not know the family."""
    if not isinstance(config.get("model_type"), str):
        return None
    from frspec_cli.models.target import read_model_config

    try:
        return getattr(read_model_config(str(folder), folder).get_text_config(), "vocab_size", None)
    except FrspecError:
        return None  # a family of a later transformers: its subsets are built by the tokenizer's rows
