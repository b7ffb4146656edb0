"""`train-draft --layout mtp`: a module for a target without one, held against transformers' own code of such modules."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from frspec_cli.answers.records import Answer, read_answers
from frspec_cli.answers.states import target_states
from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.errors import FrspecError
from frspec_cli.heads.checkpoint import load_head
from frspec_cli.heads.head import EagleHead
from frspec_cli.heads.mtp import load_mtp
from frspec_cli.models.target import load_target
from frspec_cli.replay.cycles import Acceptance, replay
from tests.fixtures.tiny_target import WORDS
from tests.tiny import run_cli

LAYER = "model.layers.0."
NAMES = {
    f"{LAYER}{name}.weight"
    for name in (
        "enorm", "hnorm", "eh_proj", "shared_head.norm", "input_layernorm", "post_attention_layernorm",
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )
}  # fmt: skip
PROMPTS = ([5, 17, 20, 31, 8, 11, 2], [9, 3])


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """The tiny model with layers that add little and far apart logits: its next token depends on the last most, and is sure."""
    copy = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("plain") / "tiny-llama")
    tensors = load_file(copy / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = tensor * 0.1
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * 4
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.fixture(scope="module")
def answers(folder):
    """Its sampled answers to 40 prompts."""
    draw = random.Random(5)
    lines = [json.dumps({"prompt": " ".join(draw.choices(WORDS, k=3 + n % 7))}) + "\n" for n in range(40)]
    (folder.parent / "prompts.jsonl").write_text("".join(lines))
    out = folder.parent / "answers.jsonl"
    code, _, err = run_cli(
        "collect", folder.parent / "prompts.jsonl", "--model", folder, "--out", out, "-n", 16, "--temperature", 1,
        "--device", "cpu", "--dtype", "float32",
    )  # fmt: skip
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def trained(answers, folder, tmp_path_factory):
    """(the module's folder, the metrics of its training)."""
    out = tmp_path_factory.mktemp("mtp") / "module"
    code, _, err = run_cli(
        "train-draft", answers, "--model", folder, "--out", out, "--layout", "mtp", "--epochs", 20,
        "--batch-tokens", 128, "--steps", 3, "--learning-rate", 3e-3, "--device", "cpu", "--dtype", "float32",
        "--threads", 1,
    )  # fmt: skip
    assert code == 0, err
    lines = (out.with_name("module.training") / "metrics.jsonl").read_text().splitlines()
    return out, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def target(folder):
    return load_target(str(folder), device="cpu", dtype="float64")


def loaded(folder, target):
    return load_head(folder, target_config=target.config, embedding_weight=target.embedding, dtype=target.dtype)


def test_it_learns_and_drafts_better_than_chance(trained, target, answers) -> None:
    """Against itself with random weights, over the answers that it was taught."""
    out, metrics = trained
    losses = np.array([line["loss"] for line in metrics if "loss" in line])
    assert losses.shape[1] == 3
    assert (losses[-5:].mean(0) < losses[:5].mean(0) - 0.3).all()
    module = loaded(out, target)
    chance = EagleHead(module.config, embedding_weight=target.embedding).to(target.dtype)
    for number, parameter in enumerate(chance.parameters()):
        if parameter.ndim == 2:
            draw = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number), dtype=target.dtype)
            parameter.data.copy_(draw * 0.3)
    read = read_answers(answers, vocab_size=320)
    states = dict(target_states(target.model, read, layers=()))
    texts = [(answer, states[index]) for index, answer in enumerate(read)]
    found = [Acceptance.of(replay(each, target.lm_head, texts, tree=TreeConfig(3, 1, 4))) for each in (module, chance)]
    assert found[0].length > 1.5
    assert found[1].length < 1.1


def test_its_file_has_the_published_names(trained) -> None:
    out, _ = trained
    config = json.loads((out / "config.json").read_text())
    assert load_file(out / "model.safetensors").keys() == NAMES
    assert (config["architectures"], config["model_type"]) == (["FrspecMtp"], "frspec_mtp")
    assert config["frspec"]["taps"] == []
    card = (out / "README.md").read_text()
    assert card.startswith("# MTP module for tiny-llama\n")
    assert "a multi-token-prediction module as DeepSeek-V3's (`FrspecMtp`): 0.0 M parameters" in card
    assert "It reads the target's\npost-norm last hidden state.\n" in card


def in_the_checkpoint(module, target_folder, folder):
    """A copy of the target whose checkpoint holds the module behind its four layers, as published ones do."""
    copy = shutil.copytree(target_folder, folder)
    own = load_file(copy / "model.safetensors")
    behind = {
        name.replace(LAYER, "model.layers.4."): tensor.float()
        for name, tensor in load_file(module / "model.safetensors").items()
    }
    save_file(own | behind, copy / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_mtp_layers": 1, "mtp_layer_types": ["full_attention"]}))
    return copy


def test_it_computes_what_transformers_own_module_does(trained, folder, target, tmp_path) -> None:
    """transformers' layers, norms and rotary positions of the same tensors, put into the target's checkpoint."""
    out, _ = trained
    merged = load_target(str(in_the_checkpoint(out, folder, tmp_path / "merged")), device="cpu", dtype="float64")
    theirs, ours = load_mtp(merged), loaded(out, target)
    ids = torch.randint(1, 320, (1, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.full((11, 11), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]
    with torch.no_grad():
        states = target.model.model(input_ids=ids[:, :-1]).last_hidden_state
        outputs = []
        for head in (theirs, ours):
            first = head(head.embed(ids[:, 1:]), head.fuse(states), torch.arange(11)[None], mask)
            second = head(head.embed((ids[:, 1:] + 1) % 320), first, torch.arange(1, 12)[None], mask)
            outputs.append(torch.cat((head.lm_input(first), head.lm_input(second))))
    assert torch.allclose(*outputs, rtol=0, atol=1e-5)  # transformers computes norms and positions in float32
    for prompt in PROMPTS:
        runs = [
            Engine(each, EagleDrafter(head, each.lm_head, TreeConfig(3, 1, 4))).complete(prompt, max_new_tokens=40)
            for each, head in ((merged, theirs), (target, ours))
        ]
        assert runs[0].token_ids == runs[1].token_ids
        assert runs[0].accepted == runs[1].accepted


@pytest.mark.parametrize("shape", [TreeConfig(3, 1, 4), TreeConfig(3, 3, 10)])
@pytest.mark.parametrize("subset", [False, True])
def test_replayed_cycles_are_the_engines(trained, target, shape, subset) -> None:
    head = loaded(trained[0], target)
    rows = target.lm_head.rows(torch.arange(0, 320, 2)) if subset else target.lm_head
    engine, accepted = Engine(target, EagleDrafter(head, rows, shape)), 0
    for prompt in PROMPTS:
        whole = engine.complete(prompt, max_new_tokens=32, ignore_eos=True).token_ids
        text = engine.complete(prompt, max_new_tokens=24, ignore_eos=True)
        answer = Answer(np.asarray([*prompt, *whole]), len(prompt), finished=False, greedy=True)
        states = dict(target_states(target.model, [answer], layers=()))
        [ours] = replay(head, rows, [(answer, states[0])], tree=shape, new_tokens=24)
        assert text.accepted == ours.accepted
        accepted += sum(ours.accepted)
    assert accepted > 1


def test_generate_gives_the_same_text_by_chain_and_by_tree(cli, trained, folder) -> None:
    common = ["the fox jumps", "--model", folder, "--device", "cpu", "--dtype", "float64", "-n", 32, "--json", "-q"]
    plain = json.loads(cli("generate", *common, "--method", "ar")[1])
    for tree in ("3,1,4", "4,3,12"):
        code, out, err = cli("generate", *common, "--draft", trained[0], "--method", "eagle", "--tree", tree)
        assert code == 0, err
        assert json.loads(out)["token_ids"] == plain["token_ids"]


def test_a_warm_start_goes_on_from_it(cli, trained, answers, folder, tmp_path) -> None:
    common = ["train-draft", answers, "--model", folder, "--epochs", 1, "--device", "cpu", "--dtype", "float32"]
    common += ["--learning-rate", 0, "--init", trained[0]]
    code, _, err = cli(*common, "--layout", "mtp", "--out", tmp_path / "module")
    assert code == 0, err
    before, after = load_file(trained[0] / "model.safetensors"), load_file(tmp_path / "module" / "model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    code, _, err = cli(*common, "--layout", "eagle2", "--out", tmp_path / "other")
    assert code == 1
    assert "cannot initialise this head: its layout is mtp, the new one's eagle2." in " ".join(err.split())


def test_what_it_cannot_be_is_one_sentence(cli, trained, answers, folder, target, tmp_path) -> None:
    train = ["train-draft", answers, "--model", folder, "--layout", "mtp", "--out", tmp_path / "m"]
    for more, said in (
        (["--taps", "1,2"], "--layout mtp reads the last hidden state only: leave out --taps."),
        (["--vocab", tmp_path / "s"], "only --layout eagle3 has an LM head of its own"),
    ):
        code, _, err = cli(*train, *more)
        assert code == 2
        assert said in " ".join(err.split())
    code, _, err = cli("export-draft", trained[0], "--to", "sglang", "--out", tmp_path / "e")
    assert code == 1
    assert "is an MTP module that stands alone; sglang reads such a module only in the checkpoint" in " ".join(
        err.split()
    )
    other = shutil.copytree(trained[0], tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    save_file(tensors | {"fc.weight": tensors[f"{LAYER}eh_proj.weight"].clone()}, other / "model.safetensors")
    with pytest.raises(FrspecError, match=r"holds an unknown tensor fc.weight of shape \[32, 64\]"):
        loaded(other, target)
    del tensors[f"{LAYER}eh_proj.weight"]
    save_file(tensors, other / "model.safetensors")
    with pytest.raises(FrspecError, match=r"lacks the tensor model.layers.0.eh_proj.weight\."):
        loaded(other, target)


def test_inspect_names_it(cli, trained) -> None:
    code, out, err = cli("inspect", trained[0], "--json")
    assert code == 0, err
    assert (json.loads(out)["kind"], json.loads(out)["layout"]) == ("draft-head", "mtp")
