"""The head that a run trains: its config, checked before anything is computed, and its first weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from frspec_cli.errors import FrspecError, UsageError, option
from frspec_cli.heads.checkpoint import load_head
from frspec_cli.heads.config import HeadConfig, Layout, head_config_for
from frspec_cli.heads.files import read_config
from frspec_cli.heads.head import EagleHead
from frspec_cli.heads.reading import default_taps
from frspec_cli.models.identity import has_weights
from frspec_cli.models.lm_head import LmHead
from frspec_cli.models.target import Target
from frspec_cli.subsets.load import load_subset
from frspec_cli.tokens.tokenizer import LoadedTokenizer
from frspec_cli.training.init_layer import has_qkv_bias


def new_head_config(
    target: Target, *, layout: Layout, taps: tuple[int, ...] | None, draft_ids: torch.Tensor | None
) -> HeadConfig:
    """The config of a new head for `target`. Raises `UsageError` if its file would not load with these taps."""
    config = head_config_for(
        target.config,
        taps=taps,
        layout=layout,
        draft_vocab_size=None if draft_ids is None else len(draft_ids),
        qkv_bias=has_qkv_bias(target.model),
    )
    check_taps(config, layers=target.config.num_hidden_layers)
    return config


def check_taps(config: HeadConfig, *, layers: int) -> None:
    """Raises `UsageError` if a head's file would not load with the taps of `config` for a target of N layers.

    Entry 0 of `hidden_states` is the embedding, entry N the state after the final norm. EAGLE-3's file counts the layers
    whose outputs it reads: it has no number for the embedding, and its readers see the output of layer N without the norm.
    """
    first, last = (1, layers - 1) if config.layout == "eagle3" else (0, layers)
    names = f"{option('taps')} {','.join(map(str, config.taps))}"
    hint = f"Name other {option('taps')}, or leave the option out for the default."
    for tap in config.taps:
        if not first <= tap <= last:
            raise UsageError(
                f"{names}: this layout can tap the hidden states {first} to {last} of a target of {layers} layers, not {tap}.",
                hint=hint,
            )
    outputs = tuple(tap - 1 for tap in config.taps)
    if config.layout == "eagle3" and outputs == default_taps(layers):
        raise UsageError(
            f"{names} cannot be told from the default taps {','.join(map(str, outputs))} in an EAGLE-3 head's file, which "
            "counts layers from one less.",
            hint=hint,
        )


def draft_ids_of(
    subset: Path, *, k: int | None, tokenizer: LoadedTokenizer, target: Target, warn: Callable[[str], None]
) -> torch.Tensor:
    """int64 [K], ascending: the tokens of a subset, for the rows of an EAGLE-3 head's own LM head."""
    loaded = load_subset(subset, tokenizer=tokenizer, model_rows=target.config.vocab_size, k=k, warn=warn)
    return torch.from_numpy(loaded.token_ids.astype("int64")).sort().values


def own_lm_head(target: Target, draft_ids: torch.Tensor | None) -> LmHead | None:
    """EAGLE-3's rows, which start as the target's, trainable; None for the other layouts."""
    if draft_ids is None:
        return None
    rows = target.lm_head.rows(draft_ids)
    return LmHead(torch.nn.Parameter(rows.weight.float() * rows.scale), ids=rows.ids)


def check_warm_start(path: Path, target: Target) -> None:
    """Raises `FrspecError` if there is no head at `path`, or one that was trained for other weights."""
    if not (path / "model.safetensors").is_file():
        raise FrspecError(f"there is no draft head at {path}: no folder with a model.safetensors.")
    config = read_config(path)
    identity = config.get("target_weights")
    if identity is not None and not has_weights(target, str(identity)):
        raise FrspecError(
            f"{path} is the head of another target, {config.get('target')}, whose weights are not those of {target.name}."
        )


def warm_start(path: Path, target: Target, config: HeadConfig, draft_ids: torch.Tensor | None) -> EagleHead:
    """The head at `path`, trainable. Raises `FrspecError` if its config or the tokens of its LM head differ."""
    head = load_head(
        path,
        target_config=target.config,
        embedding_weight=target.embedding,
        device=target.device,
        dtype=torch.float32,
    )
    for name, value in asdict(config).items():
        if getattr(head.config, name) != value:
            raise FrspecError(
                f"{path} cannot initialise this head: its {name} is {getattr(head.config, name)}, the new one's {value}."
            )
    own = head.own_lm_head
    if own is not None:
        if own.ids is None or draft_ids is None or not torch.equal(own.ids.cpu(), draft_ids):
            raise FrspecError(f"{path} cannot initialise this head: its LM head covers other tokens.")
        head.own_lm_head = LmHead(torch.nn.Parameter(own.weight), ids=own.ids)
    return head.requires_grad_(True).train()
