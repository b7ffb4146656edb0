"""A replay of the target's own MTP module is transformers' assisted run and our engine, cycle by cycle."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from transformers.cache_utils import MtpCache
from transformers.generation import candidate_generator
from transformers.modeling_layers import MtpModel

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import target_states
from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.heads.mtp import load_mtp
from frspec_cli.models.target import load_target
from frspec_cli.replay.cycles import BatchedTrees, replay
from tests.mtp import FAMILIES, HYBRIDS, save_mtp_target

PROMPTS = [[3, 9], [7, 7, 9, 1, 22, 23, 4, 8, 15, 16, 2, 3, 90, 301, 44]]
NEW, MORE = 24, 8


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A family's folder, its target and module, and the target's greedy answers with its states over them."""
    folder = save_mtp_target(tmp_path_factory.mktemp("mtp") / request.param, request.param)
    target = load_target(str(folder), device="cpu", dtype="float64", hybrid=True)
    ids = [greedy(target, prompt, NEW + MORE) for prompt in PROMPTS]
    pairs = zip(ids, PROMPTS, strict=True)
    answers = [Answer(np.asarray(whole), len(prompt), finished=False, greedy=True) for whole, prompt in pairs]
    states = dict(target_states(target.model, answers, layers=()))
    return folder, target, load_mtp(target), [(answer, states[index]) for index, answer in enumerate(answers)]


def greedy(target, prompt, count, **more):
    """Plain greedy ids by transformers, past the end of sequence."""
    ids = torch.tensor([prompt])
    out = target.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=-1, **more
    )
    return out[0].tolist()


def assisted(target, prompt, monkeypatch):
    """transformers' own run with the module: (ids, [(position of the root, the tokens drafted there)])."""
    drafts = []
    original = candidate_generator.MTPCandidateGenerator.get_candidates

    def get_candidates(self, input_ids, **kwargs):
        ids, logits = original(self, input_ids, **kwargs)
        if logits is not None:
            drafts.append((input_ids.shape[1] - 1, ids[0, input_ids.shape[1] :].tolist()))
        return ids, logits

    with monkeypatch.context() as patch:
        patch.setattr(candidate_generator.MTPCandidateGenerator, "get_candidates", get_candidates)
        return greedy(target, prompt, NEW, use_mtp=True), drafts


@torch.no_grad()
def assisted_from_scratch(target, prompt, monkeypatch):
    """The same where transformers refuses, because linear attention cannot be rolled back: its own drafting loop, and the
    model without a cache."""
    ids, drafts = torch.tensor([prompt]), []
    ids = torch.cat((ids, target.model(ids, use_cache=False).logits[:, -1:].argmax(-1)), 1)
    while ids.shape[1] < len(prompt) + NEW:
        states = target.model.model(ids[:, :-1], use_cache=False).last_hidden_state
        drafted, _, _ = MtpModel.from_pretrained(target.model)(
            input_ids=ids[:, 1:],
            last_hidden_states=states,
            attention_mask=None,
            position_ids=torch.arange(1, ids.shape[1])[None],
            mtp_cache=MtpCache(config=target.model.config.get_mtp_config()),
        )
        drafts.append((ids.shape[1] - 1, drafted[0].tolist()))
        chosen = target.model(torch.cat((ids, drafted), 1), use_cache=False).logits.argmax(-1)[:, ids.shape[1] - 1 :]
        agreed = int((chosen[:, :-1] == drafted).long().cumprod(1).sum())
        ids = torch.cat((ids, chosen[:, : agreed + 1]), 1)
    return ids[0, : len(prompt) + NEW].tolist(), drafts


def test_cycles_and_drafts_are_those_of_transformers(family, monkeypatch) -> None:
    folder, target, module, texts = family
    run = assisted_from_scratch if folder.name in HYBRIDS else assisted
    chain = TreeConfig(1, 1, 2)
    replayed = replay(module, target.lm_head, texts, tree=chain, new_tokens=NEW)
    drafter, seen = EagleDrafter(module, target.lm_head, chain), 0
    for prompt, (answer, states), ours in zip(PROMPTS, texts, replayed, strict=True):
        ids, drafts = run(target, prompt, monkeypatch)
        assert ids == answer.ids[: len(ids)].tolist()  # its text is plain decoding's
        roots = [position - len(prompt) for position, _ in drafts]
        assert ours.roots == roots
        assert ours.accepted[:-1] == [after - root - 1 for root, after in itertools.pairwise(roots)]
        trees = BatchedTrees.read(drafter, [(answer, states)])
        for position, tokens in drafts:
            hidden = trees.hidden[:, position - 1][:, None]
            assert drafter.pool(trees.cache, torch.tensor([position]), hidden).tokens[0].tolist() == tokens
        seen += sum(ours.accepted)
    assert 4 < seen < 2 * NEW - 4  # neither chance nor certainty


@torch.no_grad()
def chain_from_scratch(target, rows, answer, states, root, depth):
    """The single module used again for every step, over the whole text each time, with transformers' masks and cache."""
    place, theirs = answer.prompt_length + root, MtpModel.from_pretrained(target.model)
    ids = torch.from_numpy(answer.ids)[None, 1 : place + 1]
    hidden, drafted = states.last[None, :place], []
    for _ in range(depth):
        out = theirs.forward_layer(
            0,
            hidden,
            torch.arange(1, ids.shape[1] + 1)[None],
            MtpCache(config=target.model.config.get_mtp_config()),
            input_ids=ids,
        )
        logits = target.model.lm_head(out[:, -1])
        token = rows[logits[0, rows].argmax()]
        drafted.append(int(token))
        ids, hidden = torch.cat((ids, token[None, None]), 1), torch.cat((hidden, out[:, -1:]), 1)
    return drafted


@pytest.mark.parametrize("subset", [False, True])
def test_a_chain_uses_the_module_again_and_a_subset_its_rows(family, subset) -> None:
    """With a subset the drafts are those of the full logits restricted to it."""
    _, target, module, texts = family
    rows = torch.arange(0, 320, 2) if subset else torch.arange(320)
    head = target.lm_head.rows(rows) if subset else target.lm_head
    drafter = EagleDrafter(module, head, TreeConfig(3, 1, 4))
    [ours] = replay(module, head, texts[1:], tree=drafter.tree, new_tokens=NEW)
    answer, states = texts[1]
    trees = BatchedTrees.read(drafter, texts[1:])
    for root, accepted in zip(ours.roots, ours.accepted, strict=True):
        position = torch.tensor([answer.prompt_length + root])
        pool = drafter.pool(trees.cache, position, trees.hidden[:, position[0] - 1][:, None])
        expected = chain_from_scratch(target, rows, answer, states, root, 3)
        assert pool.tokens[0].tolist() == expected
        following = answer.ids[int(position) + 1 :][:3].tolist()
        agree = [one == other for one, other in zip(expected, following, strict=True)]
        assert accepted == next((index for index, same in enumerate(agree) if not same), 3)


def test_all_rows_in_another_form_change_nothing(family) -> None:
    _, target, module, texts = family
    whole = target.lm_head.rows(torch.arange(320))
    pools = []
    for head in (target.lm_head, whole):
        drafter = EagleDrafter(module, head, TreeConfig(3, 1, 4))
        trees = BatchedTrees.read(drafter, texts)
        position = trees.starts + 5
        hidden = trees.hidden[torch.arange(2), position - 1][:, None]
        pools.append(drafter.pool(trees.cache, position, hidden))
    for one, other in zip(*pools, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", ["Glm4Moe", "Mellum"], indirect=True)  # the engine decodes attention only
@pytest.mark.parametrize("shape", [TreeConfig(1, 1, 2), TreeConfig(3, 1, 4), TreeConfig(3, 2, 6)])
@pytest.mark.parametrize("subset", [False, True])
def test_replayed_cycles_are_the_engines(family, shape, subset) -> None:
    folder, target, module, texts = family
    head = target.lm_head.rows(torch.arange(0, 320, 2)) if subset else target.lm_head
    replayed = replay(module, head, texts, tree=shape, new_tokens=NEW)
    engine = Engine(load_target(str(folder), device="cpu", dtype="float64"), EagleDrafter(module, head, shape))
    for prompt, (answer, _), ours in zip(PROMPTS, texts, replayed, strict=True):
        text = engine.complete(prompt, max_new_tokens=NEW, ignore_eos=True)
        assert text.token_ids == answer.ids[len(prompt) : len(prompt) + NEW].tolist()
        assert text.accepted == ours.accepted
        assert sum(text.accepted) > 0


def test_the_command(cli, family, tmp_path) -> None:
    """Prompts are answered by the target, hybrid or not; the figures are those of the library."""
    folder, *_ = family
    (tmp_path / "prompts.jsonl").write_text(
        "".join(
            json.dumps({"id": text, "category": text[0], "prompt": text}) + "\n"
            for text in ("the fox", "a hen", "one by one")
        )
    )
    common = ["--model", folder, "--device", "cpu", "--dtype", "float64", "--json"]
    code, out, err = cli(
        "replay", tmp_path / "prompts.jsonl", *common, "--draft", "mtp", "--methods", "eagle", "-n", NEW,
        "--out", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 0, err
    shown = json.loads(out)["summary"]["eagle"]
    assert (shown["draft"], shown["depth"], shown["beam"], shown["nodes"]) == ("mtp", 3, 1, 4)
    assert sum(shown["misses"].values()) == shown["cycles"]
    assert list(shown["categories"]) == ["a", "o", "t"]
    assert shown["depths"][0]["share"] > 0.05


@pytest.mark.parametrize("family", ["Qwen3Next"], indirect=True)
def test_trees_with_branches_are_not_for_linear_attention(cli, family, tmp_path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the fox"}\n')
    code, _, err = cli(
        "replay", tmp_path / "prompts.jsonl", "--model", family[0], "--draft", "mtp", "--methods", "eagle",
        "--tree", "3,2,6", "--device", "cpu", "--out", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 2
    assert "has layers of linear attention, where no engine can verify a tree with branches (3,2,6)." in " ".join(
        err.split()
    )


def test_the_engine_still_refuses_linear_attention(cli, tmp_path) -> None:
    folder = save_mtp_target(tmp_path / "qwen", "Qwen3_5Text")
    code, _, err = cli(
        "generate", "the fox", "--model", folder, "--draft", "mtp", "--method", "eagle", "--device", "cpu"
    )
    assert code == 1
    assert "has linear_attention layers: frspec decodes only models whose layers are full or sliding" in " ".join(
        err.split()
    )


@pytest.mark.parametrize("family", ["Glm4Moe", "Mellum"], indirect=True)
def test_generate_and_verify_with_the_module(cli, family, tmp_path) -> None:
    """The text is plain decoding's, by chain and by tree, greedy and sampled; verify finds no difference."""
    common = ["--model", family[0], "--device", "cpu", "--dtype", "float64", "-n", 20]
    texts = {}
    for method, *more in (["ar"], ["eagle", "--draft", "mtp"], ["eagle", "--draft", "mtp", "--norm-output", "no"]):
        for heat in (0, 1):
            code, out, err = cli(
                "generate", "the fox", *common, "--method", method, *more, "--temperature", heat, "--json"
            )  # fmt: skip
            assert code == 0, err
            texts.setdefault(heat, []).append(json.loads(out)["token_ids"])
    assert all(each == same[0] for same in texts.values() for each in same)
    code, out, err = cli("verify", *common, "--draft", "mtp", "--method", "eagle", "--limit", 2, "--json")
    assert code == 0, err
    assert json.loads(out)["passed"] is True
