"""Loading a target, its end tokens, its prompts; and the LM head by hand against the model's own logits."""

from __future__ import annotations

import json
import shutil
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
    "GraniteSWA": {"logits_scaling": 5.0},
    "GraniteMoe": {"logits_scaling": 5.0, "num_local_experts": 4},
    "GraniteMoeSWA": {"logits_scaling": 5.0, "num_local_experts": 4},
    "GraniteMoeShared": {"logits_scaling": 5.0, "num_local_experts": 4, "shared_intermediate_size": 16},
    "HyperCLOVAX": {"logits_scaling": 5.0},
    "Cohere2": {"logit_scale": 0.25, "head_dim": 8},
    "Cohere2Moe": {"logit_scale": 0.25, "head_dim": 8, "num_experts": 4},
    "NanoChat": {"final_logit_softcapping": 3.0, "head_dim": 8},
    "VaultGemma": {"final_logit_softcapping": 3.0, "head_dim": 8},
    "Olmo2": {},
}


def family_model(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """A tiny random model of a family, its LM head's bias (where it has one) not zero."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**(SMALL | FAMILIES[name]))
    model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation="eager")  # for float64
    model.to(dtype).eval().requires_grad_(False)
    bias = model.get_output_embeddings().bias
    if bias is not None:
        bias.normal_(generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_lm_head_by_hand_is_the_models_own_logits(family: str) -> None:
    """Granite divides, Cohere multiplies, Gemma-2 soft-caps, Phi adds a bias: in full, and by rows."""
    model = family_model(family)
    out = model(input_ids=torch.tensor([[3, 9, 27, 81]]), output_hidden_states=True)
    head = lm_head_of(model)
    if family.startswith("Granite"):  # it divides by what we multiply by the inverse of
        assert torch.allclose(head(out.hidden_states[-1]), out.logits, atol=1e-12)
    else:
        assert torch.equal(head(out.hidden_states[-1]), out.logits)
    ids = torch.tensor([80, 3, 41])
    assert torch.allclose(head.rows(ids)(out.hidden_states[-1]), out.logits[..., ids], atol=1e-12)
    assert head.rows(ids).to_token_ids(torch.tensor([2, 0])).tolist() == [41, 80]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: logits * 1.04, "which changes its LM head's output in a way that frspec does not know"),
        (lambda logits: torch.tanh(logits / 90) * 90, "which changes its LM head's output"),
        (lambda logits: logits[..., :90], "are not the output of one LM head"),
        (lambda logits: logits.index_fill(-1, torch.tensor([7]), -1e4), "which changes its LM head's output"),
    ],
    ids=["scale", "soft-cap", "fewer rows", "a token masked"],
)
def test_what_a_family_does_to_its_logits_unknown_to_us_is_refused(change, message, dtype) -> None:
    class Changed(transformers.LlamaForCausalLM):
        def forward(self, **arguments: Any) -> Any:
            out = super().forward(**arguments)
            out.logits = change(out.logits)
            return out

    torch.manual_seed(3)
    model = Changed(transformers.LlamaConfig(**SMALL)).to(dtype).eval()
    with pytest.raises(FrspecError, match=f"cannot draft for the model family llama, .*{message}"):
        lm_head_of(model)
    lm_head_of(transformers.LlamaForCausalLM(model.config).to(dtype))


def test_what_a_family_does_before_its_head_is_refused() -> None:
    class Changed(transformers.LlamaForCausalLM):
        def forward(self, input_ids: torch.Tensor, **arguments: Any) -> Any:
            out = self.model(input_ids=input_ids, **arguments)
            out.logits = self.lm_head(out.last_hidden_state / 2)
            return out

    with pytest.raises(FrspecError, match="LM head reads something else than the last hidden state"):
        lm_head_of(Changed(transformers.LlamaConfig(**SMALL)))


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


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("bart", "of the family bart, which is not a decoder-only language model"),
        ("clip_text_model", "of the family clip_text_model, which is not a decoder-only language model"),
        ("mamba", "has linear_attention layers"),
        ("rwkv", "of the family rwkv, which has recurrent layers"),
        ("deepseek_v3", r"of the family deepseek_v3, whose latent attention \(MLA\) frspec's cache cannot hold"),
    ],
)
@pytest.mark.parametrize("hybrid", [False, True])
def test_families_that_cannot_be_decoded_are_refused_by_name(tmp_path, family, message, hybrid) -> None:
    transformers.AutoConfig.for_model(family, num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(FrspecError, match=message):
        load_target(str(tmp_path), device="cpu", hybrid=hybrid)


def test_experts_run_in_float64(tmp_path, tiny_folder) -> None:
    family_model("GraniteMoe", torch.float32).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    target = load_target(str(tmp_path), device="cpu", dtype="float64")
    assert target.model(input_ids=torch.tensor([[3, 9]])).logits.dtype == torch.float64


def test_devices_and_dtypes_are_checked() -> None:
    with pytest.raises(UsageError, match="float8"):
        resolve_dtype("float8")
    with pytest.raises(UsageError, match="not a device that torch knows"):
        resolve_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(FrspecError, match="no CUDA device"):
            resolve_device("cuda:0")


def test_weights_go_straight_to_the_device(tiny_folder, monkeypatch) -> None:
    """Without a copy on the host first: the loader is told where, and nothing is moved afterwards."""
    asked: list[Any] = []
    load = transformers.AutoModelForCausalLM.from_pretrained

    def recording(*arguments: Any, **options: Any) -> Any:
        asked.append(options["device_map"])
        return load(*arguments, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", recording)
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_: pytest.fail("moved"))
    target = load_target(str(tiny_folder), device="cpu", dtype="float32")
    assert asked == [{"": torch.device("cpu")}]
    assert (target.device, target.dtype) == (torch.device("cpu"), torch.float32)


def test_what_does_not_fit_is_one_sentence(tiny_folder, monkeypatch) -> None:
    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore about it.")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(FrspecError, match=r"does not fit on cpu: CUDA out of memory. Tried to allocate 2 GiB\.$"):
        load_target(str(tiny_folder), device="cpu")


def test_a_quantised_target_whose_library_is_absent_is_one_sentence(tiny_folder, tmp_path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FrspecError, match="could not be loaded") as caught:
        load_target(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_numbered_device_becomes_the_current_one(monkeypatch) -> None:
    """Events and streams are the current device's: text on another card would be timed on an idle stream."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1")]
    with pytest.raises(FrspecError, match="cuda:2: this machine has 2 CUDA devices"):
        resolve_device("cuda:2")
