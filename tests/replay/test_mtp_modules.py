"""Several MTP modules, each for its step: what transformers' own assisted run drafts and accepts, and our engine's cycles."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from transformers.cache_utils import MtpCache
from transformers.generation import candidate_generator
from transformers.modeling_layers import MtpModel

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import target_states
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.modules_drafter import head_drafter
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.errors import UsageError
from frspec_cli.heads.mtp import MtpModules, load_mtp
from frspec_cli.models.target import load_target
from frspec_cli.replay.cycles import BatchedTrees, replay
from frspec_cli.replay.grid import replay_grid
from tests.mtp import save_mtp_target

PROMPTS = [[60], [3, 9, 41, 5, 60], [7, 7, 9, 1, 22, 23, 4, 8, 15, 16, 2, 3, 90, 301, 44]]
MODULES, NEW, MORE = 3, 24, 8
CHAIN = TreeConfig(MODULES, 1, MODULES + 1)


SLIDING = {
    "layer_types": ["full_attention"] * 3,
    "mtp_layer_types": ["sliding_attention"] * MODULES,
    "sliding_window": 6,
}
"""Modules with a window, as EXAONE-MoE's and Step-3.7's, behind layers without: GLM-4 MoE's model does not read these."""


@pytest.fixture(scope="module", params=[{}, SLIDING], ids=["full", "sliding"])
def glm(request, tmp_path_factory):
    """A GLM-4 MoE with three modules: its folder, target and modules, and its greedy answers with its states over them."""
    folder = save_mtp_target(
        tmp_path_factory.mktemp("glm") / "glm", "Glm4Moe", modules=MODULES, share=0.2, noise=0.08, **request.param
    )
    target = load_target(str(folder), device="cpu", dtype="float64")
    answers = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        whole = target.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW + MORE, do_sample=False, eos_token_id=-1
        )[0]
        answers.append(Answer(whole.numpy(), len(prompt), finished=False, greedy=True))
    states = dict(target_states(target.model, answers, layers=()))
    return folder, target, load_mtp(target), [(answer, states[index]) for index, answer in enumerate(answers)]


def assisted(target, prompt, monkeypatch):
    """transformers' own run with the modules: (ids, [(position of the root, the tokens drafted there)])."""
    theirs, drafts = candidate_generator.MTPCandidateGenerator.get_candidates, []

    def get_candidates(self, input_ids, **more):
        out = theirs(self, input_ids, **more)
        if out[0].shape[1] > input_ids.shape[1]:
            drafts.append((input_ids.shape[1] - 1, out[0][0, input_ids.shape[1] :].tolist()))
        return out

    with monkeypatch.context() as patch:
        patch.setattr(candidate_generator.MTPCandidateGenerator, "get_candidates", get_candidates)
        ids = torch.tensor([prompt])
        out = target.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, eos_token_id=-1, use_mtp=True
        )
    return out[0].tolist(), drafts


def pool(drafter, text, position: int):
    trees = BatchedTrees.read(drafter, [text])
    return drafter.pool(trees.cache, torch.tensor([position]), trees.hidden[:, position - 1][:, None])


def drafted(drafter, text, position: int) -> list[int]:
    return pool(drafter, text, position).tokens[0].tolist()


def test_chains_and_cycles_are_those_of_transformers(glm, monkeypatch) -> None:
    _, target, modules, texts = glm
    drafter, accepted = head_drafter(modules, target.lm_head, CHAIN), 0
    for prompt, text in zip(
        PROMPTS[1:], texts[1:], strict=True
    ):  # transformers 5.23 slices before the start of a short text
        ids, drafts = assisted(target, prompt, monkeypatch)
        assert ids == text[0].ids[: len(ids)].tolist()
        [ours] = replay(modules, target.lm_head, [text], tree=CHAIN, new_tokens=NEW)
        roots = [position - len(prompt) for position, _ in drafts]
        assert ours.roots == roots
        assert ours.accepted[:-1] == [after - root - 1 for root, after in itertools.pairwise(roots)]
        for position, tokens in drafts:
            assert len(tokens) == MODULES
            assert drafted(drafter, text, position) == tokens
        accepted += sum(ours.accepted)
    assert accepted > 8


@torch.no_grad()
def from_scratch(target, rows, text, position: int) -> tuple[list[int], torch.Tensor]:
    """Each module over the whole text and what was drafted so far, with transformers' masks and an empty cache: the tokens, and
    the log-prob of each path."""
    answer, states = text
    theirs = MtpModel.from_pretrained(target.model)
    ids, hidden = torch.from_numpy(answer.ids)[None, 1 : position + 1], states.last[None, :position]
    found, scores = [], []
    cache = MtpCache(config=target.model.config.get_mtp_config())
    for number in range(MODULES):
        places = torch.arange(1, ids.shape[1] + 1)[None] + number
        hidden = theirs.forward_layer(number, hidden, places, cache, input_ids=ids)
        log_probs = target.model.lm_head(hidden[:, -1])[0, rows].log_softmax(-1)
        token = rows[log_probs.argmax()]
        found.append(int(token))
        scores.append(log_probs.max())
        ids = torch.cat((ids[:, 1:], token[None, None]), 1)
    return found, torch.stack(scores).cumsum(0)


def test_a_subset_restricts_the_full_logits_of_every_module(glm) -> None:
    _, target, modules, texts = glm
    rows = torch.arange(0, 320, 2)
    drafter = head_drafter(modules, target.lm_head.rows(rows), CHAIN)
    for text in texts:
        for position in range(text[0].prompt_length, len(text[0].ids) - 2, 3):
            ours, (tokens, scores) = pool(drafter, text, position), from_scratch(target, rows, text, position)
            assert ours.tokens[0].tolist() == tokens
            assert torch.allclose(ours.scores[0], scores, rtol=0, atol=1e-6)  # norms are computed in float32


@pytest.mark.parametrize("shape", [CHAIN, TreeConfig(2, 1, 3), TreeConfig(6, 1, 7)])
@pytest.mark.parametrize("subset", [False, True])
def test_replayed_cycles_are_the_engines(glm, shape, subset) -> None:
    """A chain longer than the modules ends with them."""
    _, target, modules, texts = glm
    head = target.lm_head.rows(torch.arange(0, 320, 2)) if subset else target.lm_head
    replayed = replay(modules, head, texts, tree=shape, new_tokens=NEW)
    engine = Engine(target, head_drafter(modules, head, shape))
    assert engine.drafter.depth == min(shape.depth, MODULES)
    for prompt, (answer, _), ours in zip(PROMPTS, texts, replayed, strict=True):
        text = engine.complete(prompt, max_new_tokens=NEW, ignore_eos=True)
        assert text.token_ids == answer.ids[len(prompt) : len(prompt) + NEW].tolist()
        assert text.accepted == ours.accepted
    assert sum(sum(each.accepted) for each in replayed) > 4


def test_all_chains_at_once_are_each_alone(glm) -> None:
    _, target, modules, texts = glm
    grid = replay_grid(
        modules, target.lm_head, texts, beam=1, depths=(1, 2, 3, 4), nodes=(2, 3, 4, 5), new_tokens=NEW, look_ahead=4
    )
    assert {(tree.depth, tree.nodes) for tree in grid} == {(1, 2), (2, 2), (2, 3), (3, 2), (3, 3), (3, 4)}
    for tree, found in grid.items():
        alone = replay(modules, target.lm_head, texts, tree=tree, new_tokens=NEW, look_ahead=4)
        assert found.accepted == [sum(each.accepted) for each in alone]
        assert found.cycles == [len(each.accepted) for each in alone]
    assert not replay_grid(modules, target.lm_head, texts, beam=1, depths=(4,), nodes=(5,), new_tokens=NEW)


def test_each_module_is_for_its_step(glm) -> None:
    """In another order they draft other tokens at every step: so the tests above would notice."""
    _, target, modules, texts = glm
    turned = MtpModules(modules.modules_in_order[::-1])
    ours, others = (
        [drafted(head_drafter(head, target.lm_head, CHAIN), text, place) for text in texts for place in range(18, 30)]
        for head in (modules, turned)
    )
    for step in range(MODULES):
        assert any(one[step] != other[step] for one, other in zip(ours, others, strict=True))


def test_what_several_modules_do_not_draft_is_one_sentence(glm, cli, tmp_path) -> None:
    folder, target, modules, _ = glm
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the fox"}\n')
    with pytest.raises(UsageError, match=r"several MTP modules draft chains, not trees with branches \(3,2,6\)"):
        head_drafter(modules, target.lm_head, TreeConfig(3, 2, 6))
    common = ["--model", folder, "--device", "cpu", "--dtype", "float64", "-n", 16, "-q"]
    plain = json.loads(cli("generate", "the fox", *common, "--method", "ar", "--json")[1])
    code, out, err = cli("generate", "the fox", *common, "--draft", "mtp", "--method", "eagle", "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["token_ids"] == plain["token_ids"]
    assert (shown["depth"], shown["beam"], shown["nodes"]) == (3, 1, 4)
    code, _, err = cli(
        "generate", "the fox", *common, "--draft", "mtp", "--method", "eagle", "--tree", "3,1,4", "--compile"
    )
    assert code == 2
    assert "--compile does not know several MTP modules: leave it out." in " ".join(err.split())
    code, _, err = cli(
        "tune", tmp_path / "prompts.jsonl", "--model", folder, "--draft", "mtp", "--methods", "eagle", "--device", "cpu",
        "--dtype", "float32", "--out", tmp_path / "t.json",
    )  # fmt: skip
    assert code == 2
    assert (
        "tune cannot measure what several MTP modules cost, for it does so with trees: give --costs FILE."
        in " ".join(err.split())
    )


def test_the_state_before_the_final_norm_is_read_as_the_family_has_it(tmp_path) -> None:
    """`mtp-prenorm` is a module that is given what the final norm was given; a scale is lost in the module's own norm."""
    folder = save_mtp_target(tmp_path / "q", "Qwen3Next")
    target = load_target(str(folder), device="cpu", dtype="float64", hybrid=True)
    with torch.no_grad():
        factors = torch.linspace(-0.5, 2.0, 32, dtype=torch.float64)
        target.model.model.norm.weight.copy_(factors)  # this family's norms multiply by 1 + weight
    head, ids = (
        load_mtp(target, before_norm=True),
        torch.randint(1, 320, (1, 12), generator=torch.Generator().manual_seed(2)),
    )
    seen = {}
    hook = target.model.model.norm.register_forward_pre_hook(lambda module, inputs: seen.update(before=inputs[0]))
    with torch.no_grad():
        states = target.model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        hook.remove()
        cache, places = MtpCache(config=target.model.config.get_mtp_config()), torch.arange(1, 12)[None]
        theirs = MtpModel.from_pretrained(target.model)
        expected = theirs.forward_layer(0, seen["before"], places, cache, input_ids=ids[:, 1:])
        mask = torch.full((11, 11), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]
        ours = head(head.embed(ids[:, 1:]), head.fuse(states), places - 1, mask)
    assert not head.config.norm_output  # what is fed back is un-normed too
    assert torch.allclose(head.lm_input(ours), expected, rtol=0, atol=1e-4)  # but for the norms' epsilons
    assert not torch.allclose(head.lm_input(ours), ours)
    with torch.no_grad():
        other = load_mtp(target)
        assert not torch.allclose(other(other.embed(ids[:, 1:]), states, places - 1, mask), expected, atol=1e-2)


def test_both_readings_are_replayed_side_by_side(cli, tmp_path) -> None:
    """Of a hybrid, whose module was made to read the state behind the norm."""
    folder = save_mtp_target(tmp_path / "q", "Qwen3_5Text")
    prompts = ("the fox", "a hen runs", "one by one", "over the lazy dog")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in prompts))
    code, out, err = cli(
        "replay", tmp_path / "prompts.jsonl", "--model", folder, "--draft", "mtp", "--draft", "mtp-prenorm",
        "--methods", "eagle", "-n", 24, "--device", "cpu", "--dtype", "float64", "--json", "--out", tmp_path / "r.json",
    )  # fmt: skip
    assert code == 0, err
    arms = json.loads(out)["summary"].values()
    assert [arm["draft"] for arm in arms] == ["mtp", "mtp-prenorm"]
    assert all((arm["depth"], arm["beam"]) == (3, 1) for arm in arms)
    assert all(arm["acceptance_length"] > 1 for arm in arms)
