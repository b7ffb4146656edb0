"""Which files hold a model's weights."""

from __future__ import annotations

from pathlib import Path, PurePath

from frspec_cli import schema
from frspec_cli.errors import FrspecError
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
        return {name: folder / file for name, file in read_index(index).items()}
    return {}


def read_index(index: Path) -> dict[str, str]:
    """Tensor -> file beside the index of a model or head in shards.

    Raises `FrspecError` if it is damaged, or names anything but files in its own folder.
    """
    names = schema.check(_Index, schema.read_object(index), index).weight_map
    for file in set(names.values()):
        if file in ("", ".", "..") or file != PurePath(file).name or "\\" in file or "\0" in file:
            raise FrspecError(
                f"{index} names {file!r}, which is not a file in its own folder.",
                hint="Nothing was read from there. Get the model again from where it was published.",
            )
    return names
