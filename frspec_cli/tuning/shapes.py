"""How large a model and a head are, and what tells them apart, from their files: before anything is loaded."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from frspec_cli.heads.files import read_config
from frspec_cli.models.target import read_model_config
from frspec_cli.models.weight_files import weight_files
from frspec_cli.tensor_files import safetensors_shapes

_BLOCKS, _BLOCK_BYTES = 64, 256


@dataclass(frozen=True)
class ModelShape:
    """What decides the cost of a target's step.

    rows, hidden: of the LM head, [rows, hidden].
    layers: decoder layers.
    weights: numbers in all matrices but embedding and LM head.
    """

    rows: int
    hidden: int
    layers: int
    weights: int

    @staticmethod
    def of(name: str, folder: Path) -> ModelShape:
        """Of the model `name` in `folder`. Raises `FrspecError` if its config or its weights cannot be read."""
        text = read_model_config(name, folder).get_text_config()
        shapes = [
            each["shape"] for path in set(weight_files(folder).values()) for each in safetensors_shapes(path).values()
        ]
        matrices = (math.prod(shape) for shape in shapes if len(shape) > 1 and shape[0] < text.vocab_size)
        return ModelShape(text.vocab_size, text.hidden_size, text.num_hidden_layers, sum(matrices))


@dataclass(frozen=True)
class HeadShape:
    """What decides the cost of a draft level.

    weights: numbers in all matrices but embedding and LM head.
    own_rows: rows of the head's own LM head; None if it uses the target's.
    """

    weights: int
    own_rows: int | None

    @staticmethod
    def of(folder: Path, *, vocabulary: int, hidden: int) -> HeadShape:
        """Of the head in `folder`; a head in pickled files is taken to be as large as one layer of its width."""
        config = read_config(folder)
        rows = config.get("draft_vocab_size")
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            return HeadShape(14 * hidden * hidden, rows if isinstance(rows, int) else None)
        shapes = {name: each["shape"] for path in files for name, each in safetensors_shapes(path).items()}
        own = next((shape[0] for name, shape in shapes.items() if name.endswith("lm_head.weight")), None)
        tables = {vocabulary, own}
        weights = sum(math.prod(shape) for shape in shapes.values() if len(shape) > 1 and shape[0] not in tables)
        return HeadShape(weights, own if isinstance(rows, int) and rows == own else None)


def head_digest(folder: Path) -> str:
    """24 hex digits over a head's config and blocks of its weights, whatever dtype it is loaded with."""
    digest = hashlib.sha256()
    for path in sorted((*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin"), folder / "config.json")):
        size = path.stat().st_size if path.is_file() else 0
        digest.update(f"{path.name} {size}".encode())
        if not size:
            continue
        with open(path, "rb") as file:
            for number in range(_BLOCKS):
                file.seek(max(0, size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:24]
