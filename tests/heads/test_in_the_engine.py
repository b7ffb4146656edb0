"""Published layouts in the engine: whatever the head, and sliced or not, the text is the target's."""

from __future__ import annotations

import json

import pytest
import torch

from tests.heads.heads import write

H, V, D = 32, 320, 96
CONFIG = {
    "hidden_size": H, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": V,
    "max_position_embeddings": 512,
}  # fmt: skip


def random_head(kind: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    wide = kind == "eagle3"
    read, layer = (2 * H, "midlayer.") if wide else (H, "layers.0.")
    shapes = {f"{layer}self_attn.{name}_proj.weight": (H if name in "qo" else 16, read) for name in "qkv"}
    shapes |= {f"{layer}self_attn.o_proj.weight": (H, H), "fc.weight": (H, (3 if wide else 2) * H)}
    shapes |= {f"{layer}mlp.{name}_proj.weight": (40, H) for name in ("gate", "up")}
    shapes |= {f"{layer}mlp.down_proj.weight": (H, 40)} | ({"lm_head.weight": (D, H)} if wide else {})
    tensors = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    norms = ["midlayer.input_layernorm", "midlayer.hidden_norm", "norm"] if wide else []
    tensors |= {f"{name}.weight": torch.ones(H) for name in [*norms, f"{layer}post_attention_layernorm"]}
    if wide:
        ids = torch.arange(2, 2 + 3 * D, 3)
        tensors |= {"d2t": ids - torch.arange(D), "t2d": torch.isin(torch.arange(V), ids)}
    return tensors


@pytest.mark.parametrize("kind", ["eagle", "eagle3"])
def test_text_is_the_targets_with_any_head(cli, tiny_folder, tmp_path, kind):
    source = write(tmp_path / "head", random_head(kind), CONFIG, pickled=kind == "eagle")
    common = ["the fox", "--model", tiny_folder, "--device", "cpu", "--dtype", "float64", "-n", 24, "--json", "-q"]
    plain = json.loads(cli("generate", *common, "--method", "ar")[1])
    code, out, err = cli("generate", *common, "--draft", source, "--method", "eagle")
    assert code == 0, err
    drafted = json.loads(out)
    assert drafted["token_ids"] == plain["token_ids"]
    assert drafted["k"] == (D if kind == "eagle3" else V)
    to = "speculators" if kind == "eagle3" else "sglang"
    assert cli("export-draft", source, "--to", to, "--out", tmp_path / "out", "--model", tiny_folder)[0] == 0
    again = json.loads(cli("generate", *common, "--draft", tmp_path / "out", "--method", "eagle")[1])
    assert (again["token_ids"], again["cycles"]) == (drafted["token_ids"], drafted["cycles"])
