"""Every family decodes the same ids with a tree as without, and each node of a tree sees its own path alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from frspec_cli.decoding.attention import TargetMasks, layer_windows
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.tree import ancestors_of
from frspec_cli.models.target import Target
from tests.decoding.families import FAMILIES, SOFTCAPPED
from tests.models.test_target import family_model
from tests.tiny import NoProcessor, ScriptedDrafter

PROMPT = [3, 9, 27, 81, 5, 6, 7, 8, 4, 2, 60]  # longer than the windows of 8


def _target(family: str, dtype: torch.dtype = torch.float64) -> Target:
    return Target(name=family, folder=Path("."), model=family_model(family, dtype), processor=NoProcessor())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_decodes_what_plain_decoding_and_transformers_decode(family: str) -> None:
    target = _target(family)
    plain = Engine(target).complete(PROMPT, max_new_tokens=24, ignore_eos=True).token_ids
    reference = family_model(family)
    if family in SOFTCAPPED:
        reference.set_attn_implementation("eager")
    expected = reference.generate(
        torch.tensor([PROMPT]), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert plain == expected[0, len(PROMPT) :].tolist()
    drafter = ScriptedDrafter(plain, wrong={4, 5, 11, 17}, vocab=96, depth=4, beam=2, prompt=len(PROMPT))
    drafted = Engine(target, drafter).complete(PROMPT, max_new_tokens=24, ignore_eos=True)
    assert drafted.token_ids == plain
    assert 0 < sum(drafted.accepted) < 4 * drafted.cycles


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_each_node_sees_its_own_path(family: str) -> None:
    """Six nodes behind a prompt, each against a plain forward pass of its path: logits equal to rounding."""
    target = _target(family)
    engine = Engine(target)
    state, _ = engine.prefill(PROMPT, engine.cache_length(len(PROMPT), 40))
    parents = torch.tensor([0, 0, 0, 1, 1, 3])
    levels = torch.tensor([0, 1, 1, 2, 2, 3])
    tokens = torch.tensor([11, 12, 13, 14, 15, 16])
    start = len(PROMPT)
    slots = start + torch.arange(6)
    logits, _ = engine.forward(state.workspace, tokens, start + levels, slots, ancestors_of(parents, 3))
    for node in range(6):
        path, at = [], node
        while True:
            path.insert(0, int(tokens[at]))
            if at == 0:
                break
            at = int(parents[at])
        own = family_model(family)
        if family in SOFTCAPPED:
            own.set_attn_implementation("eager")
        plain = own(input_ids=torch.tensor([PROMPT + path])).logits[0, -1]
        tolerance = 1e-5 if family in SOFTCAPPED else 1e-12
        assert torch.allclose(logits[node], plain, atol=tolerance), node


def test_windows_count_positions_not_slots() -> None:
    """Two siblings at slots 5 and 6 share position 5: with a window of 3 both see positions 3 and 4 and themselves."""
    config = family_model("Mistral").config
    config.sliding_window = 3
    masks = TargetMasks(config, length=8, dtype=torch.float32, device=torch.device("cpu"))
    among = torch.tensor([[True, False, False], [True, True, False], [True, False, True]])
    mask = masks(torch.tensor([4, 5, 6]), torch.tensor([4, 5, 5]), among)
    assert (mask[0, 0] == 0).tolist() == [
        [False, False, True, True, True, False, False, False],
        [False, False, False, True, True, True, False, False],
        [False, False, False, True, True, False, True, False],
    ]


def test_a_prompt_within_the_window_needs_no_mask() -> None:
    """Rows of a prompt are plainly causal until one is a window away from the first; then only the windowed kind is not."""
    config = family_model("Gemma2").config  # full and sliding layers, windows of 8
    masks = TargetMasks(config, length=64, dtype=torch.float32, device=torch.device("cpu"))
    rows = torch.arange(4, 8)
    assert {kind: mask.shape for kind, mask in masks.causal(rows, 8).items()} == {
        "full_attention": (1, 1, 4, 0),
        "sliding_attention": (1, 1, 4, 0),
    }
    later = masks.causal(torch.arange(4, 9), 9)
    assert later["full_attention"].shape == (1, 1, 5, 0)
    assert (later["sliding_attention"][0, 0] == 0).tolist() == [
        [row - 8 < column <= row for column in range(9)] for row in range(4, 9)
    ]


def test_a_dict_of_masks_goes_only_to_models_with_several_kinds() -> None:
    assert layer_windows(family_model("Llama").config) == ({"full_attention": None}, False)
    windows, as_dict = layer_windows(family_model("Gemma3Text").config)
    assert as_dict == (len(windows) > 1)
    assert layer_windows(family_model("Gemma2").config) == ({"full_attention": None, "sliding_attention": 8}, True)
