"""What tells two targets apart, read from their files: the same whatever dtype and device a target is loaded with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from frspec_cli import schema
from frspec_cli.models.target import Target
from frspec_cli.models.weight_files import weight_files
from frspec_cli.tensor_files import safetensors_shapes

_BLOCKS, _BLOCK_BYTES = 64, 256
"""What is hashed of a large tensor: blocks spread evenly from its first byte to its last. Fine-tuning changes whole tensors."""

_DIGITS = 32
_CONFIGS = ("config.json", "generation_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_TEMPLATES = ("chat_template.json", "*.jinja", "additional_chat_templates/*.jinja")
_NOT_BEHAVIOUR = ("transformers_version", "_name_or_path")


def target_identity(target: Target) -> str:
    """64 hex digits over everything that changes a target's answers.

    The first 32 are over the weights (some of every tensor), the others over its configs, tokenizer and chat template.
    A target without files, made in memory, is known by its loaded tensors and its config.
    """
    if weight_files(target.folder):
        return folder_identity(target.folder)
    return _loaded_weights(target.model) + _short(target.model.config.to_json_string().encode())


def folder_identity(folder: Path) -> str:
    """The same of a model's folder, before it is loaded."""
    return _weights(folder) + _settings(folder)


def has_weights(target: Target, recorded: str) -> bool:
    """Whether the identity that a draft head records (`target_weights`) is of the weights of `target`.

    Older heads record 24 digits over rows of the embedding, in the dtype that they were trained with: mostly bfloat16.
    """
    if len(recorded) == 24:
        rows = target.embedding[:: max(1, target.rows // 64)].cpu()
        stored = (rows.float(), rows.bfloat16().float())
        return recorded in [hashlib.sha256(each.numpy().tobytes()).hexdigest()[:24] for each in stored]
    return recorded[:_DIGITS] == target_identity(target)[:_DIGITS]


def _weights(folder: Path) -> str:
    tensors: dict[str, str] = {}
    for path in sorted(set(weight_files(folder).values())):
        safetensors_shapes(path)  # checks the header
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = schema.parse_json(file.read(size), path)
            header.pop("__metadata__", None)
            for name, entry in header.items():
                digest = hashlib.sha256(f"{entry['dtype']} {entry['shape']}".encode())
                begin, end = entry["data_offsets"]
                for block in _blocks(file, 8 + size + begin, end - begin):
                    digest.update(block)
                tensors[name] = digest.hexdigest()
    return _short(json.dumps(tensors, sort_keys=True).encode())


def _loaded_weights(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.flatten()[:: max(1, tensor.numel() // 4096)]
        digest.update(f"{name} {list(tensor.shape)}".encode() + values.double().cpu().numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]


def _blocks(file: IO[bytes], begin: int, size: int) -> Iterator[bytes]:
    """A small tensor's bytes, or blocks of a large one's."""
    if size <= _BLOCKS * _BLOCK_BYTES:
        file.seek(begin)
        yield file.read(size)
        return
    for number in range(_BLOCKS):
        file.seek(begin + (size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
        yield file.read(_BLOCK_BYTES)


def _settings(folder: Path) -> str:
    contents: dict[str, str] = {}
    for pattern in (*_CONFIGS, *_TOKENIZER, *_TEMPLATES):
        for path in folder.glob(pattern):
            content = path.read_bytes()
            if path.name in _CONFIGS:  # what another version of transformers writes beside the same settings
                settings = schema.read_object(path).items()
                values = {name: value for name, value in settings if name not in _NOT_BEHAVIOUR}
                content = json.dumps(values, sort_keys=True).encode()
            contents[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return _short(json.dumps(contents, sort_keys=True).encode())


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
