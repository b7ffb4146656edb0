"""speculators' own code on what frspec exports for it, and frspec on what speculators writes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.peers.exports import config_of, head_of, run, states, subset, two_steps

HEADS = {
    "EAGLE-3": {},
    "EAGLE-3.1": {"fc_norm": True, "norm_output": True},
    "norm before residual": {"norm_before_residual": True},
    "two layers": {"layers": 2},
    "Qwen3's norms": {"qk_norm": True},
    "window": {"layer_types": ["sliding_attention"], "sliding_window": 3},
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_loaded_and_drafts_as_in_frspec(in_peer, tiny_folder, tmp_path, monkeypatch, kind) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    out, again, given = tmp_path / "out", tmp_path / "again", states()
    run(
        "export-draft",
        head_of(tmp_path / "head", **HEADS[kind]),
        "--to",
        "speculators",
        "--out",
        out,
        "--model",
        tiny_folder.name,
    )
    made = in_peer("speculators", "speculators_head.py", out, again, **given)
    theirs = load_file(tiny_folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(made["embedding"], theirs)
    assert torch.equal(made["d2t"], load_file(out / "model.safetensors")["d2t"])
    ours = two_steps(tmp_path / "head", tiny_folder, given)
    torch.testing.assert_close(made["logits.0"], ours[0], rtol=0, atol=1e-5)
    if kind != "window":  # its training lets the second step see one position more than a window holds
        torch.testing.assert_close(made["logits.1"], ours[1], rtol=0, atol=1e-5)
    for folder in (out, again):  # what speculators saves is read back as the same head
        back = two_steps(folder, tiny_folder, given)
        torch.testing.assert_close(back[0], ours[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(back[1], ours[1], rtol=0, atol=1e-5)


def test_the_verifier_of_an_export_is_found_from_any_folder(tiny_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    run(
        "export-draft",
        head_of(tmp_path / "head"),
        "--to",
        "speculators",
        "--out",
        tmp_path / "out",
        "--model",
        tiny_folder.name,
    )
    assert config_of(tmp_path / "out")["speculators_config"]["verifier"]["name_or_path"] == str(tiny_folder.resolve())


def test_maps_are_built_from_exported_counts_and_taken_as_they_are(in_peer, tiny_folder, tmp_path) -> None:
    path, chosen, _ = subset(tmp_path, tiny_folder)
    assert 0 in chosen.counts  # a forced token that no text holds
    for to, name in (("token-freq", "token_freq.pt"), ("speculators", "pair")):
        run("export-vocab", path, "--to", to, "--out", tmp_path / name)
    made = in_peer("speculators", "speculators_map.py", tmp_path / "token_freq.pt", tmp_path / "pair", chosen.k, 320)
    ids = torch.from_numpy(chosen.token_ids.astype("int64")).sort().values
    for name in ("built", "taken"):
        assert torch.equal(made[f"{name}.d2t"], ids - torch.arange(len(ids)))
        assert torch.equal(made[f"{name}.t2d"].bool().nonzero().flatten(), ids)
