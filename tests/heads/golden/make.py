"""Makes the golden tensors: tiny heads with drawn weights, run once by the published EAGLE code.

    PYTHONPATH=CHECKOUT:LIBRARIES python tests/heads/golden/make.py

CHECKOUT is SafeAILab/EAGLE at cb7e084 (its eagle/model), LIBRARIES a folder with transformers 4.57.3, huggingface_hub
0.36.0 and tokenizers 0.22.1, which that code needs; torch 2.13, float32, one CPU thread. For eagle2 and eagle3 it writes a
head in EAGLE's layout (config.json, model.safetensors) and golden.safetensors:

    embedding [V, H]; lm_head [V, H] (eagle2: the target's)
    tokens int64 [N+1], the last one the root; states [N, H], or [N, 3 H] for eagle3: the target's at the first N tokens
    prefill [N, H]: the module over all pairs; step [3, H]: three rows behind it, each seeing the pairs and itself
    draft_tokens int64 [60], positions int64 [60], mask bool [60, 60]: topK_genrate at depth 5, top-k 10, 60 tokens

Nothing of that code is kept here.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

H, V, D, N = 32, 200, 64, 14
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": H,
    "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1,
    "rms_norm_eps": 1e-5, "vocab_size": V, "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip


def fill(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(1 + 0.2 * drawn if "norm" in name else drawn * (2.0 if "lm_head" in name else 0.15))


@torch.no_grad()
def make(kind: str, folder: Path) -> None:
    from eagle.model import cnets, cnets1
    from eagle.model.configs import EConfig

    generator = torch.Generator().manual_seed(77)
    wide = kind == "eagle3"
    config = CONFIG | ({"draft_vocab_size": D} if wide else {"bias": True, "rope_theta": 500000.0})
    options = {"total_tokens": 60, "depth": 5, "top_k": 10}
    model = cnets.Model(EConfig(**config), **options) if wide else cnets1.Model(EConfig(**config), bias=True, **options)
    fill(model, 5)
    lm_head = torch.randn(V, H, generator=generator)
    if wide:
        ids = torch.randperm(V, generator=generator)[:D].sort().values
        model.d2t.copy_(ids - torch.arange(D))
        model.t2d.zero_()
        model.t2d[ids] = True
    model.eval()
    model.init_tree()
    model.reset()
    tokens = torch.randint(1, V, (N + 1,), generator=generator)
    states = torch.randn(N, 3 * H if wide else H, generator=generator)
    prefill, past = model(states[None], input_ids=tokens[None, 1:], use_cache=True)
    model.tree_mask = torch.eye(3)[None, None]
    step, _ = model(
        prefill[:, -1:].repeat(1, 3, 1), input_ids=torch.tensor([[3, 4, 5]]), past_key_values=past,
        position_ids=torch.full((3,), N), use_cache=True,
    )  # fmt: skip
    head = torch.nn.Linear(H, V, bias=False)
    head.weight.copy_(lm_head)
    draft_tokens, _, mask, positions = model.topK_genrate(states[None], tokens[None], head, None)
    golden = {"embedding": model.embed_tokens.weight, "tokens": tokens, "states": states, "prefill": prefill[0]}
    golden |= {"step": step[0], "draft_tokens": draft_tokens[0], "positions": positions, "mask": mask[0, 0].bool()}
    golden |= {} if wide else {"lm_head": lm_head}
    folder.mkdir(exist_ok=True)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "embed_tokens.weight"}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    save_file({name: tensor.detach().contiguous() for name, tensor in golden.items()}, folder / "golden.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in ("eagle2", "eagle3"):
        make(name, Path(__file__).parent / name)
