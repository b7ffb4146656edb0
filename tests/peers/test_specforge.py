"""SpecForge's own code on what frspec exports for EAGLE and SGLang, and frspec on what SpecForge writes for SGLang."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.peers.exports import head_of, run, states, subset, two_steps


@pytest.mark.parametrize(("to", "fc_norm"), [("eagle", False), ("sglang", False), ("sglang", True)])
def test_a_head_is_loaded_and_drafts_as_in_frspec(in_peer, tiny_folder, tmp_path, to, fc_norm) -> None:
    out, again, given = tmp_path / "out", tmp_path / "again", states()
    head = head_of(tmp_path / "head", fc_norm=fc_norm)
    # EAGLE's code has the default taps alone, which a target of four layers lacks: no --model, which would tell.
    for folder, peer in ((out, to), (tmp_path / "config", "sglang")):
        run("export-draft", head, "--to", peer, "--out", folder)
    embedding = load_file(tiny_folder / "model.safetensors")["model.embed_tokens.weight"]
    tokens = given["tokens"]
    shifted = torch.cat((tokens[:, 1:], tokens.new_zeros(1, 1)), 1)
    tensors = {"taps": given["taps"], "embeddings": embedding[torch.stack((tokens, shifted))]}
    config = tmp_path / "config" / "config.json"
    made = in_peer("specforge", "specforge_head.py", out, config, again, **tensors)
    ours, written = two_steps(head, tiny_folder, given), load_file(out / "model.safetensors")
    back = two_steps(again, tiny_folder, given)
    for step in (0, 1):
        torch.testing.assert_close(made[f"logits.{step}"], ours[step], rtol=0, atol=1e-5)
        torch.testing.assert_close(back[step], ours[step], rtol=0, atol=1e-5)
    assert torch.equal(made["d2t"], written["d2t"])
    assert torch.equal(made["t2d"], written["t2d"])


def test_maps_hold_the_same_tokens(in_peer, tiny_folder, tmp_path) -> None:
    """SpecForge takes ties in the order of its counts, frspec by id: given in that order, they choose the same."""
    counts = subset(tmp_path, tiny_folder)[2]
    run("build-vocab", tmp_path / "counts.parquet", "--k", 60, "--forced", "none", "--out", tmp_path / "free.parquet")
    run("export-vocab", tmp_path / "free.parquet", "--to", "eagle3", "--out", tmp_path / "map.pt")
    ids = sorted(counts)
    tensors = {"ids": torch.tensor(ids), "counts": torch.tensor([counts[index] for index in ids])}
    made = in_peer("specforge", "specforge_map.py", tmp_path / "map.pt", 60, 320, **tensors)
    assert torch.equal(made["built.d2t"], made["taken.d2t"])
    assert torch.equal(made["built.t2d"], made["taken.t2d"])
