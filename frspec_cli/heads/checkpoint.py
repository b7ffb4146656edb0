"""Draft heads on disk: a folder with config.json, weights and (for ours) a card.

Every difference between file and head is an error that names the tensor, its shape and the expected one: a head that is
loaded in part drafts badly, and nothing shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from frspec_cli import storage
from frspec_cli.errors import FrspecError
from frspec_cli.heads.config import HeadConfig
from frspec_cli.heads.files import WEIGHTS, locate_head, read_config, read_tensors
from frspec_cli.heads.head import EagleHead
from frspec_cli.heads.kinds import refuse_other_kind
from frspec_cli.heads.layouts import ParsedHead, Tensors, parse_head
from frspec_cli.heads.mtp_names import published_names
from frspec_cli.heads.peers import config_for, tensors_for
from frspec_cli.heads.reading import padding
from frspec_cli.models.finite import is_finite
from frspec_cli.models.lm_head import LmHead
from frspec_cli.tensor_files import write_safetensors

_ROWS_AT_ONCE = 8192


def save_head(
    head: EagleHead, folder: Path | str, *, card: str, extra: dict[str, Any] | None = None, dtype: torch.dtype
) -> None:
    """Writes a head to `folder`, whole or not at all: config, weights cast to `dtype`, card.

    The layouts that only frspec runs leave out the target's embedding and LM head. EAGLE-1/2 and EAGLE-3 are written as
    EAGLE's own code reads them; for EAGLE-1/2, it wants the embedding in the file.
    extra: more keys of config.json, about the target and the training.
    """
    tensors = {name: tensor.detach().to("cpu", dtype) for name, tensor in head.state_dict().items()}
    config = head.config.to_json()
    if head.config.layout == "mtp":
        tensors = published_names(tensors)
    elif head.config.layout != "fused":
        own = head.own_lm_head
        parsed = ParsedHead(
            head.config,
            tensors,
            embedding=head.embedding_weight.to("cpu", dtype) if head.config.layout == "eagle2" else None,
            lm_head=None if own is None else own.weight.detach().to("cpu", dtype),
            ids=None if own is None or own.ids is None else own.ids.cpu(),
        )
        tensors, config = tensors_for(parsed, "eagle"), config_for(parsed, {}, "eagle")
    with storage.atomic_folder(folder) as temporary:
        write_safetensors(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        storage.write_json(
            temporary / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")} | (extra or {})
        )
        storage.write_text(temporary / "README.md", card)


def load_head(
    path: str | Path,
    *,
    target_config: Any,
    embedding_weight: torch.Tensor,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    norm_output: bool | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> EagleHead:
    """The head in the folder (or hub repository) `path`, of any layout, on `device` in `dtype`, ready to draft.

    target_config: the target's text config.
    embedding_weight: the target's [V, H], shared, not copied, if device and dtype agree; a head that brings another
        embedding keeps its own.
    norm_output: whether the normed output is fed back, whatever the head's config says; None to read it there.
    warn: called for what the head's config leaves in doubt.
    Raises `FrspecError` for a head of another target, and for missing, unknown, wrongly shaped or not finite tensors.
    """
    folder = locate_head(path)
    where, layers = str(path), target_config.num_hidden_layers
    raw = read_config(folder)
    refuse_other_kind(raw, (), where=where)  # some kinds name their files otherwise, so that no tensors would be found
    tensors = read_tensors(folder)
    parsed = parse_head(raw, tensors, layers=layers, where=where, norm_output=norm_output)
    for note in parsed.notes:
        warn(note)
    padded, parsed = parsed.config.vocab_size, parsed.without_padding(target_config.vocab_size)
    if parsed.config.vocab_size < padded:
        warn(padding(padded, parsed.config.vocab_size, where=where))
    config = parsed.with_taps_of(layers)
    check_target(config, target_config, where=where)
    _check_finite({**parsed.tensors, "embed_tokens": parsed.embedding, "lm_head": parsed.lm_head}, where=where)
    embedding = _embedding(parsed.embedding, embedding_weight, size=config.hidden_size, where=where)
    own = None
    if parsed.lm_head is not None:
        ids = None if parsed.ids is None else parsed.ids.to(device)
        own = LmHead(parsed.lm_head.to(device, dtype).contiguous(), ids=ids)
    head = EagleHead(config, embedding_weight=embedding.to(device, dtype), own_lm_head=own)
    load_weights(head, parsed.tensors, where=where)
    return head.to(device, dtype).requires_grad_(False).eval()


def check_target(config: HeadConfig, target_config: Any, *, where: str) -> None:
    """Raises `FrspecError` if the head was made for a target of another size."""
    states = "hidden_size" if config.target_hidden_size is None else "target_hidden_size"
    for name, ours, theirs in (
        (states, config.feature_size, target_config.hidden_size),
        ("vocab_size", config.vocab_size, target_config.vocab_size),
    ):
        if ours != theirs:
            raise FrspecError(
                f"{where} is a draft head of another target: its {name} is {ours}, the target's is {theirs}."
            )
    layers = target_config.num_hidden_layers
    beyond = [tap for tap in config.taps if not 0 <= tap <= layers]
    if beyond:
        raise FrspecError(f"{where} taps hidden state {beyond[0]}, but the target has {layers} layers.")
    if config.layout == "eagle3" and layers in config.taps:
        raise FrspecError(
            f"{where} taps the output of the target's last layer before the final norm, which frspec does not see."
        )


def _check_finite(tensors: Mapping[str, torch.Tensor | None], *, where: str) -> None:
    """Raises `FrspecError` for NaN or infinity: the output would stay right, and no draft would ever be accepted."""
    for name, tensor in tensors.items():
        if tensor is not None and not is_finite(tensor):
            raise FrspecError(
                f"{where}: tensor {name} holds NaN or infinity.", hint="Get the head again, or train it anew."
            )


def load_weights(head: EagleHead, tensors: Tensors, *, where: str) -> None:
    """Copies `tensors` into the head. Raises `FrspecError` unless names and shapes are exactly the head's."""
    expected = head.state_dict()
    for name, tensor in tensors.items():
        if name not in expected:
            raise FrspecError(f"{where} holds an unknown tensor {name} of shape {list(tensor.shape)}.")
        if tensor.shape != expected[name].shape:
            raise FrspecError(
                f"{where}: tensor {name} has shape {list(tensor.shape)}, expected {list(expected[name].shape)}."
            )
    missing = sorted(expected.keys() - tensors.keys())
    if missing:
        raise FrspecError(f"{where} lacks the tensor {missing[0]} of shape {list(expected[missing[0]].shape)}.")
    head.load_state_dict(tensors)


def _embedding(own: torch.Tensor | None, target: torch.Tensor, *, size: int, where: str) -> torch.Tensor:
    """The target's embedding [V, H], unless the head brings one that differs by more than the rounding of a dtype.

    size: the head's own hidden size; the target's embedding serves only if it is the target's too.
    """
    expected = [len(target), size]
    if own is None and target.shape[1] != size:
        raise FrspecError(
            f"{where} lacks the tensor embed_tokens.weight of shape {expected}: its hidden size is not the target's."
        )
    if own is None:
        return target
    if list(own.shape) != expected:
        raise FrspecError(f"{where}: tensor embed_tokens.weight has shape {list(own.shape)}, expected {expected}.")
    if target.shape[1] != size:
        return own
    for start in range(0, len(own), _ROWS_AT_ONCE):
        ours = own[start : start + _ROWS_AT_ONCE].float()
        theirs = target[start : start + _ROWS_AT_ONCE].to("cpu", torch.float32)
        if not torch.allclose(ours, theirs, rtol=2**-7, atol=1e-4):
            return own
    return target
