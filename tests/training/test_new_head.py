"""Taps are refused before training exactly if the trained head would not load, or would load with other taps."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from transformers import LlamaConfig

from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.heads.checkpoint import load_head, save_head
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.training.new_head import check_taps

LAYERS, SIZE, TOKENS, ROWS = 8, 8, 40, 12
TARGET = LlamaConfig(
    vocab_size=TOKENS, hidden_size=SIZE, intermediate_size=8, num_hidden_layers=LAYERS, num_attention_heads=2,
    max_position_embeddings=32,
)  # fmt: skip


def loads_as_trained(layout, taps, folder) -> bool:
    wide = layout == "eagle3"
    config = head_config_for(TARGET, taps=taps, layout=layout, draft_vocab_size=ROWS if wide else None)
    own = LmHead(torch.zeros(ROWS, SIZE), ids=torch.arange(ROWS) * 2) if wide else None
    embedding = torch.zeros(TOKENS, SIZE)
    head = EagleHead(config, embedding_weight=embedding, own_lm_head=own)
    save_head(head, folder, card="", extra={}, dtype=torch.float32)
    try:
        return load_head(folder, target_config=TARGET, embedding_weight=embedding).taps == taps
    except FrspecError:
        return False


def is_accepted(layout, taps) -> bool:
    try:
        check_taps(head_config_for(TARGET, taps=taps, layout=layout), layers=LAYERS)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("layout", ["fused", "eagle3"])
def test_accepted_taps_are_those_that_load(layout, tmp_path):
    candidates = [*combinations(range(LAYERS + 2), 3), (1,), (LAYERS,), (2, 4), (-5, 2)]
    accepted = {taps: is_accepted(layout, taps) for taps in candidates}
    assert accepted == {taps: loads_as_trained(layout, taps, tmp_path / "head") for taps in candidates}
    assert set(accepted.values()) == {True, False}


def test_taps_that_a_file_would_give_as_the_default_ones_are_refused():
    """SGLang counts 2, 4, 5 for the hidden states 3, 5, 6, but 2, 4, 5 are the default taps of eight layers."""
    assert not is_accepted("eagle3", (3, 5, 6))
    assert is_accepted("eagle3", (2, 4, 5))
    assert is_accepted("eagle3", (3, 5, 7))
