"""A family that no test holds against transformers is compared with it on sixteen tokens, once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from frspec_cli.decoding import attention
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.family_check import TESTED
from frspec_cli.errors import FrspecError
from frspec_cli.models.target import Target
from tests.decoding.families import FAMILIES
from tests.models.test_target import SMALL, family_model
from tests.tiny import NoProcessor

PROMPT = [3, 9, 27]


def _target(family: str, dtype: torch.dtype) -> Target:
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**SMALL))
    model = model.to(dtype).eval().requires_grad_(False)
    return Target(name=family, folder=Path("."), model=model, processor=NoProcessor())


def _passes(target: Target, monkeypatch) -> list[int]:
    """Token counts of the model's passes over a text of four tokens."""
    seen: list[int] = []
    monkeypatch.setattr(
        target.model,
        "forward",
        lambda *, input_ids, f=target.model.forward, **more: (
            seen.append(input_ids.shape[1]) or f(input_ids=input_ids, **more)
        ),
    )
    Engine(target).complete(PROMPT, max_new_tokens=4, ignore_eos=True)
    return seen


@pytest.mark.parametrize("family", ["Starcoder2", "StableLm", "Exaone4"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_new_family_that_is_computed_right_is_decoded(family: str, dtype: torch.dtype, monkeypatch) -> None:
    target = _target(family, dtype)
    assert target.config.model_type not in TESTED
    assert _passes(target, monkeypatch) == [16, 8, 8, 3, 1, 1, 1]
    assert target.model.config._attn_implementation == attention.KERNEL
    assert _passes(target, monkeypatch)[-4:] == [3, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_family_that_needs_more_is_refused(dtype: torch.dtype, monkeypatch) -> None:
    """Attention that leaves something out, here half of the scaling, as a family might ask for and not get."""
    honest = attention.grouped_attention

    def wrong(*tensors, scaling, **options) -> torch.Tensor:
        return honest(*tensors, scaling=scaling / 2, **options)

    monkeypatch.setattr(attention, "grouped_attention", wrong)
    with pytest.raises(FrspecError, match="the model family starcoder2 gives other logits through frspec's attention"):
        Engine(_target("Starcoder2", dtype)).complete(PROMPT, max_new_tokens=4)


def test_what_is_tested_is_not_compared_again(monkeypatch) -> None:
    assert {family_model(family).config.get_text_config().model_type for family in FAMILIES} == TESTED
    assert _passes(_target("Llama", torch.float32), monkeypatch) == [3, 1, 1, 1]
