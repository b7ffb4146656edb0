"""Loading a target, its end tokens, its prompts; and the LM head by hand against the model's own logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.models.lm_head import LmHead, lm_head_of
from frspec_cli.models.target import load_target, resolve_device, resolve_dtype

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Mistral": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 4.0, "sliding_window": 8},
    "Gemma3Text": {"head_dim": 8, "sliding_window": 8},
    "Phi": {},
    "Granite": {"logits_scaling": 5.0},
    "Cohere2": {"logit_scale": 0.25, "head_dim": 8},
    "Olmo2": {},
}


def family_model(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """A tiny random model of a family, its LM head's bias (where it has one) not zero."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**(SMALL | FAMILIES[name]))
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval().requires_grad_(False)
    bias = model.get_output_embeddings().bias
    if bias is not None:
        bias.normal_(generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_lm_head_by_hand_is_the_models_own_logits(family: str) -> None:
    """Granite divides, Cohere multiplies, Gemma-2 soft-caps, Phi adds a bias: whole, and by rows."""
    model = family_model(family)
    out = model(input_ids=torch.tensor([[3, 9, 27, 81]]), output_hidden_states=True)
    head = lm_head_of(model)
    if family == "Granite":  # it divides by what we multiply by the inverse of
        assert torch.allclose(head(out.hidden_states[-1]), out.logits, atol=1e-12)
    else:
        assert torch.equal(head(out.hidden_states[-1]), out.logits)
    ids = torch.tensor([80, 3, 41])
    assert torch.allclose(head.rows(ids)(out.hidden_states[-1]), out.logits[..., ids], atol=1e-12)
    assert head.rows(ids).to_token_ids(torch.tensor([2, 0])).tolist() == [41, 80]


def test_a_head_that_is_no_linear_is_refused() -> None:
    model = family_model("Llama")
    model.set_output_embeddings(torch.nn.Sequential(torch.nn.Linear(32, 96)))
    with pytest.raises(FrspecError, match="not a plain Linear"):
        lm_head_of(model)


def test_restrict_keeps_the_order_of_the_subset_and_refuses_nothing_in_common() -> None:
    own = LmHead(torch.arange(8.0).reshape(4, 2), ids=torch.tensor([5, 2, 9, 7]))
    kept = own.restrict(torch.tensor([7, 1, 5]))
    assert kept.ids.tolist() == [7, 5]
    assert kept.weight.tolist() == [[6.0, 7.0], [0.0, 1.0]]
    with pytest.raises(FrspecError, match="no token in common"):
        own.restrict(torch.tensor([1, 3]))


def test_a_loaded_target_knows_its_ends_and_its_template(tiny_folder) -> None:
    target = load_target(str(tiny_folder), device="cpu", dtype="float32")
    assert target.eos_ids == (0,)
    assert target.rows == 320
    assert target.dtype == torch.float32
    text = target.processor.decode(target.prompt_ids("the fox"))
    assert text == "<|turn|>user\nthe fox<|end|>\n<|turn|>assistant\n"
    assert target.processor.decode(target.prompt_ids("the fox", raw=True)) == "the fox"


def test_devices_and_dtypes_are_checked() -> None:
    with pytest.raises(UsageError, match="float8"):
        resolve_dtype("float8")
    with pytest.raises(UsageError, match="no device that torch knows"):
        resolve_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(FrspecError, match="no CUDA device"):
            resolve_device("cuda:0")
