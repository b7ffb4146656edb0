"""`frspec inspect`: every artifact is recognised by what it holds; anything else is refused."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file


def test_inspect_knows_heads_answers_results_and_says_what_it_does_not(cli, tmp_path) -> None:
    head = tmp_path / "head"
    head.mkdir()
    (head / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": 4}))
    tensors = {"fc.weight": torch.zeros(4, 8), "layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)}
    save_file(tensors, head / "model.safetensors")
    value = json.loads(cli("inspect", head, "--json")[1])
    assert (value["kind"], value["layout"], value["parameters"]) == ("draft-head", "eagle2", 48)
    assert "fc.weight: 4 x 8 F32" in cli("inspect", head)[1]
    (head / "model.safetensors").unlink()
    torch.save(
        {"fc.weight": torch.zeros(4, 12), "midlayer.hidden_norm.weight": torch.zeros(4)}, head / "pytorch_model.bin"
    )
    assert json.loads(cli("inspect", head, "--json")[1])["layout"] == "eagle3"
    assert json.loads(cli("inspect", head / "pytorch_model.bin", "--json")[1])["kind"] == "tensors"

    answers = tmp_path / "answers.jsonl"
    lines = [{"prompt_token_ids": [1], "response_token_ids": [2, 3], "finish": end} for end in ("stop", "length")]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    value = json.loads(cli("inspect", answers, "--json")[1])
    assert (value["kind"], value["answers"], value["finished"], value["response_tokens"]) == ("answers", 2, 1, 4)

    result = tmp_path / "result.json"
    result.write_text(
        json.dumps({"schema": 1, "prompts": [{}, {}], "summary": {"ar": {"tokens_per_second": 9.0}}}, indent=1)
    )
    value = json.loads(cli("inspect", result, "--json")[1])
    assert (value["kind"], value["prompts"], value["methods"]["ar"]["tokens_per_second"]) == ("bench-result", 2, 9.0)

    (tmp_path / "noise.bin").write_bytes(bytes(range(256)))
    code, _, err = cli("inspect", tmp_path / "noise.bin")
    assert (code, "not a file that frspec knows" in err) == (1, True)
    assert cli("inspect", tmp_path / "missing")[0] == 1
