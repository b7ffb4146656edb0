"""Which files hold a model's weights."""

from __future__ import annotations

from pathlib import Path

from frspec_cli import schema
from frspec_cli.tensor_files import safetensors_shapes


class _Index(schema.Schema):
    weight_map: dict[str, str]


def weight_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor, by name, in the checkpoint that transformers loads from `folder`; {} if it holds no model.

    Raises `FrspecError` if the single file's header or the index is damaged.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return dict.fromkeys(safetensors_shapes(single), single)
    if index.is_file():
        names = schema.check(_Index, schema.read_object(index), index).weight_map
        return {name: folder / Path(file).name for name, file in names.items()}
    return {}
