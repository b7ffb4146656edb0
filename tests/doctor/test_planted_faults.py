"""The doctor names what is wrong: each fault is planted in a trained head, and found by replaying every reading."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from frspec_cli.models.lm_head import LmHead
from frspec_cli.subsets.subset import VocabularySubset
from tests.doctor.conftest import OPTIONS, causes, remade
from tests.fixtures.trained_head import SCALED, V, recorded, target_of


def turned(tensors):
    tensors["fc.weight"] = torch.cat(tensors["fc.weight"].chunk(3, dim=1)[::-1], dim=1)


def swapped(tensors):
    for name in ("q_proj", "k_proj", "v_proj"):
        key = f"layers.0.self_attn.{name}.weight"
        tensors[key] = torch.cat(tensors[key].chunk(2, dim=1)[::-1], dim=1)


READINGS = {
    "norm_output": ({"norm_output": False}, None, "norm_output is yes"),
    "norm_before_residual": ({"norm_before_residual": False}, None, "norm_before_residual is yes"),
    "window": ({"window": None}, None, "attention has a window of 4 positions"),
    "taps one too low": ({"taps": (0, 1, 2)}, None, "the taps are hidden states 1, 2, 3"),
    "taps one too high": ({"taps": (2, 3, 4)}, None, "the taps are hidden states 1, 2, 3"),
    "fc_order": ({}, turned, "fc reads the taps deepest first"),
    "input_order": ({}, swapped, "attention reads the feature before the embedding"),
}


@pytest.mark.parametrize("fault", READINGS)
def test_a_wrong_reading(fault, target, right, looked_into):
    head, answers = right
    fields, edit, what = READINGS[fault]
    wrong = remade(head, head.own_lm_head, *([edit] if edit else []), **fields)
    found = looked_into(target, wrong, answers)
    assert found["verdict"] == "reading"
    assert causes(found) == [fault.split()[0]]
    assert [change["what"] for change in found["changes"]] == [what]
    assert found["times"]["low"] > 1
    assert found["next"][0].startswith(f"Read it so that {what}: ")
    assert not [row for row in found["around"] if row["says"] == "better"]
    assert found["acceptance_length"] > 3


ROPES = {
    "another base": {**SCALED, "rope_theta": 10.0},
    "its scaling lost": {"rope_theta": 10000.0, "rope_type": "default"},
    "both": {"rope_theta": 1000000.0, "rope_type": "default"},
}


@pytest.mark.parametrize("fault", ROPES)
def test_a_wrong_rope(fault, trained_afar, looked_into):
    target, head, rows, answers = trained_afar
    found = looked_into(target, remade(head, rows, rope=ROPES[fault]), answers)
    assert causes(found) == ["rope"]
    assert found["changes"][0]["what"] == "RoPE has the base 10,000 and linear scaling by 8"


def test_a_rope_that_cannot_be_told_from_another_is_named_with_it(target, right, looked_into):
    """Within a window of four positions slow rotations show nothing: the target's own base is taken, the others are named."""
    head, answers = right
    found = looked_into(
        target, remade(head, head.own_lm_head, rope={"rope_theta": 1.0, "rope_type": "default"}), answers
    )
    assert causes(found) == ["rope"]
    [change] = found["changes"]
    assert change["what"] == "RoPE has the base 10,000"
    assert "RoPE has the base 1,000,000" in change["ties"]
    assert "these answers cannot tell" in found["next"][0]


def frequent(answers, *, step, count):
    """Every `step`-th token id from the better start, rows of what is answered most, rising."""
    counts = np.bincount(np.concatenate([answer.ids[answer.prompt_length :] for answer in answers]), minlength=V)
    start = max(range(step), key=lambda start: counts[start::step][:count].sum())
    return torch.arange(V)[start::step][:count]


@pytest.mark.parametrize("shift", [1, -1])
def test_a_map_off_by_one(shift, target, right, looked_into):
    head, answers = right
    ids = torch.arange(1, V - 1)
    rows = LmHead(head.own_lm_head.weight[ids].contiguous(), ids=ids + shift)
    found = looked_into(target, remade(head, rows, draft_vocab_size=len(ids)), answers)
    assert causes(found) == ["d2t"]
    assert found["changes"][0]["what"] == f"d2t is one too {'high' if shift > 0 else 'low'}"


@pytest.mark.parametrize("read_as", ["ids", "offsets"])
def test_a_map_read_as_the_other_kind(read_as, target, right, looked_into):
    """Rows of every second token: offsets and token ids are both distinct ids of the vocabulary."""
    head, answers = right
    ids = frequent(answers, step=2, count=48 if read_as == "ids" else 32)
    places = torch.arange(len(ids))
    wrong = ids - places if read_as == "ids" else ids + places
    rows = LmHead(head.own_lm_head.weight[ids].contiguous(), ids=wrong)
    found = looked_into(target, remade(head, rows, draft_vocab_size=len(ids)), answers)
    assert causes(found) == ["d2t"]
    kinds = ("offsets, not token ids", "token ids, not offsets")
    assert found["changes"][0]["what"] == f"d2t holds {kinds[read_as == 'offsets']}"


def test_rows_of_another_vocabulary(target, right, looked_into):
    """The map is another list's: no arithmetic leads from it to the rows' tokens, but the target's own rows tell them."""
    head, answers = right
    ids = torch.randperm(V, generator=torch.Generator().manual_seed(2))
    rows = LmHead(head.own_lm_head.weight[ids].contiguous(), ids=torch.arange(V))
    found = looked_into(target, remade(head, rows), answers)
    assert causes(found) == ["d2t"]
    assert found["changes"][0]["what"] == "its rows belong to the tokens whose rows of the target they are nearest to"
    assert found["checks"]["nearest_rows"]["share"] > 0.8


def test_rows_of_another_target(target, right, looked_into):
    head, answers = right
    other = torch.randn(V, head.config.hidden_size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = looked_into(target, remade(head, LmHead(other)), answers)
    assert (found["verdict"], causes(found)) == ("target", ["target"])
    assert found["faults"][0]["what"] == "no reading drafts, and its LM head's rows resemble none of the target's"


def test_another_targets_weights(right, looked_into):
    """The same sizes and tokenizer, other weights: the head's embedding shows it, and nothing is drafted."""
    head, _ = right
    other = target_of(tie_word_embeddings=False)
    torch.manual_seed(11)
    for parameter in other.model.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * 0.15)
    found = looked_into(other, head, recorded(other, seed=4), recorded={"target_weights": "0" * 32})
    assert found["verdict"] == "target"
    assert set(causes(found)) == {"target"}
    said = " ".join(found["next"])
    assert "it was made for a target with other weights" in said
    assert "brings an embedding that is not the target's" in said
    assert "No reading drafts" in said


def test_another_tokenizer(target, right, looked_into):
    head, answers = right
    found = looked_into(target, head, answers, checks={"tokenizer": False})
    assert causes(found) == ["tokenizer"]
    assert looked_into(target, head, answers, checks={"tokenizer": True})["faults"] == []


MARKS = [5, 6, 7]


@pytest.fixture(scope="module")
def trained_bare(target, trained):
    """(a head trained on answers to prompts as they are, those answers, answers to the same prompts between marks)."""
    answers = [replace(answer, id=str(number)) for number, (answer, _) in enumerate(trained[2])]
    prompts = [MARKS + answer.ids[: answer.prompt_length].tolist() + MARKS[::-1] for answer in answers]
    marked = [replace(answer, id=str(number)) for number, answer in enumerate(recorded(target, prompts=prompts))]
    return answers, marked


@pytest.mark.parametrize("way", ["without the chat template", "without the generation prompt"])
def test_prompts_put_otherwise_than_in_training(way, target, right, trained_bare, looked_into):
    """The head was trained on bare prompts and is served with marks around them; the other way round nothing is said."""
    head, _ = right
    bare, marked = trained_bare
    found = looked_into(target, head, marked, other_prompts={way: bare})
    assert causes(found) == ["template"]
    assert found["prompts"][way]["times"]["low"] > 1
    assert found["faults"][0]["what"].endswith(f"as much {way}")
    found = looked_into(target, head, bare, other_prompts={"with marks": marked})
    assert found["faults"] == []
    assert found["prompts"]["with marks"]["times"]["high"] < 1


def test_recorded_prompts_that_do_not_end_as_the_template_ends_them(target, right, looked_into):
    head, answers = right
    found = looked_into(target, head, answers, checks={"generation_prompt": {"text": "<|turn|>", "share": 0.25}})
    assert causes(found) == ["template"]
    assert (
        "only 25% of the recorded prompts end as the model's chat template ends them ('<|turn|>')"
        in found["faults"][0]["what"]
    )


def test_too_few_digits(target, right, looked_into):
    """All rows share a large part, which changes no order of logits, but whose rounding drowns the rest in bfloat16."""
    head, answers = right
    direction = torch.randn(head.config.hidden_size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact = remade(head, LmHead(head.own_lm_head.weight + 200 * direction))
    served = remade(exact, LmHead(exact.own_lm_head.weight.bfloat16())).bfloat16()
    found = looked_into(target, served, answers, exact=exact)
    assert causes(found) == ["dtype"]
    assert found["changes"][0]["what"] == "it is computed in float32"


def subset_of(ids):
    ids = np.asarray(ids, dtype=np.int32)
    zeros = np.zeros(len(ids), dtype=np.int64)
    return VocabularySubset(ids, [b"x"] * len(ids), zeros, zeros.astype(np.int8), {"k": len(ids)})


def test_a_stale_subset(target, right, looked_into):
    """The rarest answered tokens as the subset: one of every other answer's own accepts more on the rest."""
    head, answers = right
    counts = np.bincount(np.concatenate([a.ids[a.prompt_length :] for a in answers]), minlength=V)
    options = replace(OPTIONS, ceilings=True)
    order = np.argsort(-counts, kind="stable")
    stale = looked_into(target, head, answers, options, subset=subset_of(order[::-1][:40]))
    fresh = looked_into(target, head, answers, options, subset=subset_of(order[:40]))
    assert causes(stale) == ["subset"]
    assert causes(fresh) == []
    assert stale["ceilings"]["own_over_subset"]["low"] > 1
    assert stale["limits"]["outside"] > fresh["limits"]["outside"]
    assert stale["ceilings"]["subset"]["value"] < fresh["ceilings"]["subset"]["value"] <= 1
    assert [row["what"] for row in stale["expect"]] == [
        "as it is served now",
        "with a subset of their own tokens",
        "with all tokens",
        "with a tree of 8,8,64",
        "the most that this tree can",
    ]
    assert stale["expect"][-1]["acceptance_length"] == 5


def strange(answers, seed=3):
    """The same prompts, with random tokens as answers."""
    generator = np.random.default_rng(seed)
    return [
        replace(answer, ids=np.concatenate([answer.ids[: answer.prompt_length], generator.integers(1, V, 40)]))
        for answer in answers
    ]


@pytest.mark.parametrize(("cause", "field"), [("language", "language"), ("task", "source")])
def test_prompts_off_its_language_or_domain(cause, field, target, right, looked_into):
    head, answers = right
    known = [replace(answer, **{field: "known"}) for answer in answers[8:]]
    other = [replace(answer, **{field: "other"}) for answer in strange(answers[:8])]
    found = looked_into(target, head, known + other)
    assert causes(found) == [cause]
    assert found["faults"][0]["what"].startswith(f"by {cause}, other has 1.")
    assert "(8 answers)" in found["faults"][0]["what"]
    few = looked_into(target, head, known + other[:7])
    assert few["faults"] == []
    assert few["groups"][cause]["other"]["answers"] == 7


def test_all_prompts_off_its_domain(target, right, looked_into):
    """Half of each answer is random: still drafted, but less than where the head was trained."""
    head, answers = right
    halves = [
        replace(answer, ids=np.concatenate([answer.ids[:24], other.ids[24:]]))
        for answer, other in zip(answers, strange(answers), strict=True)
    ]
    options = replace(OPTIONS, tree=type(OPTIONS.tree)())
    usual = looked_into(target, head, answers, options)["expect"][0]["acceptance_length"]
    found = looked_into(target, head, halves, options, recorded={"acceptance_length": usual})
    assert causes(found) == ["domain"]
    assert looked_into(target, head, answers, options, recorded={"acceptance_length": usual})["faults"] == []


def test_two_faults_at_once(target, right, looked_into):
    head, answers = right
    wrong = remade(head, head.own_lm_head, norm_output=False, window=None)
    found = looked_into(target, wrong, answers, replace(OPTIONS, changes=2))
    assert set(causes(found)) == {"norm_output", "window"}


def test_a_head_that_is_read_rightly_is_left_as_it_is(target, right, looked_into):
    head, answers = right
    found = looked_into(target, head, answers)
    assert (found["verdict"], found["changes"], found["faults"]) == ("own", [], [])
    assert found["times"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert [row for row in found["readings"] if row["cause"]] == found["around"]
    assert {row["says"] for row in found["readings"] if row["cause"] in ("window", "norm_output", "fc_order")} == {
        "worse"
    }
    assert found["acceptance_length"] > 3
