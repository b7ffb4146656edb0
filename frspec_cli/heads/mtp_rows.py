"""The LM head's rows of a subset, for engines that load a draft LM head for the target's MTP module.

The module itself stays in the target's checkpoint. Written are `mtp.draft_lm_head.weight` (and its bias) and
`draft_vocab_ids`, the target's token id of each row, ascending, in the dtype of the checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import torch

from frspec_cli import storage
from frspec_cli.errors import FrspecError
from frspec_cli.heads.export import ExportedHead
from frspec_cli.heads.files import WEIGHTS
from frspec_cli.heads.mtp import numbered_modules
from frspec_cli.models.embedding import read_lm_head
from frspec_cli.models.locate import locate_model, resolvable_name
from frspec_cli.models.target import read_model_config
from frspec_cli.models.weight_files import weight_files
from frspec_cli.subsets.load import load_subset
from frspec_cli.tensor_files import safetensors_shapes, write_safetensors
from frspec_cli.tokens.tokenizer import load_tokenizer

WEIGHT, BIAS, IDS = "mtp.draft_lm_head.weight", "mtp.draft_lm_head.bias", "draft_vocab_ids"
FOLDER = "a folder that holds rows for an MTP module and nothing else"
_PACKED = 128
"""Rows that packed INT4 products come in."""


def export_rows(model: str, vocab: Path, out: Path, *, k: int | None = None) -> ExportedHead:
    """Writes the rows of the subset `vocab` (its first k tokens) to the folder `out`.

    Raises `FrspecError` if the model has no MTP module, if its LM head is not found, or for a subset of another tokenizer.
    """
    folder = locate_model(model)
    config = read_model_config(model, folder).get_text_config()
    _check_module(model, folder, layers=int(config.num_hidden_layers))
    head = read_lm_head(folder, tied=bool(getattr(config, "tie_word_embeddings", False)))
    if head is None:
        raise FrspecError(f"{model} has no tensor that is named like an LM head (lm_head.weight) in its safetensors.")
    weight, bias = head
    warnings: list[str] = []
    subset = load_subset(
        vocab, tokenizer=load_tokenizer(str(folder)), model_rows=len(weight), k=k, warn=warnings.append
    )
    ids = torch.from_numpy(subset.token_ids.astype("int64")).sort().values
    if len(ids) % _PACKED:
        warnings.append(f"{len(ids):,} is not a multiple of {_PACKED}, which packed INT4 heads need.")
    tensors = {WEIGHT: weight[ids], IDS: ids} | ({} if bias is None else {BIAS: bias[ids]})
    with storage.atomic_folder(out) as temporary:
        write_safetensors(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        record = {
            "draft_vocab_size": len(ids),
            "vocab_size": len(weight),
            "hidden_size": weight.shape[1],
            "target": resolvable_name(model, folder),
            "tokenizer_fingerprint": subset.fingerprint,
            "ids_sha256": storage.sha256_ids(ids.numpy()),
        }
        storage.write_json(temporary / "config.json", record)
        digest = storage.sha256_file(temporary / WEIGHTS)
    return ExportedHead(len(ids), digest, tuple(warnings))


def holds_only_rows(folder: Path) -> bool:
    """Whether `folder` holds what `export_rows` writes, and nothing else: then another may replace it."""
    if {file.name for file in folder.iterdir()} != {"config.json", WEIGHTS}:
        return False
    try:
        return {WEIGHT, IDS} <= set(safetensors_shapes(folder / WEIGHTS))
    except FrspecError:
        return False


def _check_module(model: str, folder: Path, *, layers: int) -> None:
    names = list(weight_files(folder))
    if not numbered_modules(names, layers) and not any("mtp" in name.split(".") for name in names):
        raise FrspecError(f"{model} has no MTP module in its checkpoint: its rows would serve nothing.")
