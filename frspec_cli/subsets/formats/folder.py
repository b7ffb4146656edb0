"""Which file of a folder holds the draft vocabulary: speculators' pair, a map under its project's own name, or a head."""

from __future__ import annotations

from pathlib import Path

from frspec_cli.errors import FrspecError
from frspec_cli.subsets.formats.eagle3 import sibling

_NAMES = (
    "d2t.pt",  # Model-Optimizer
    "d2t.safetensors",  # TensorRT-Edge-LLM
    "draft_token_map.pt",  # NeMo Automodel
    "vocab_map.safetensors",  # TensorRT-Edge-LLM
    "draft_vocab_map.safetensors",
    "vocab_mapping.pt",  # SpecForge
)
_HEADS = ("model.safetensors", "pytorch_model.bin")


def maps_in(folder: Path) -> list[Path]:
    """The maps in a folder under the names that projects give them; of speculators' pair only d2t."""
    pairs = [file for file in sorted(folder.glob("*d2t*.npy")) if sibling(file) is not None]
    return [*pairs, *(folder / name for name in _NAMES if (folder / name).is_file())]


def file_in(folder: Path) -> Path:
    """The one file to read: the folder's map, otherwise its head. Raises `FrspecError` for several maps and for none."""
    maps = maps_in(folder)
    if len(maps) > 1:
        names = ", ".join(file.name for file in maps)
        raise FrspecError(f"the folder {folder} holds several maps: {names}; name one.")
    files = [*maps, *(folder / name for name in _HEADS if (folder / name).is_file())]
    if not files:
        raise FrspecError(
            f"the folder {folder} holds no draft vocabulary: neither d2t.npy with t2d.npy, nor {', '.join(_NAMES)}, "
            "nor a head."
        )
    return files[0]
