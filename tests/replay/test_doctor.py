"""The doctor names what is read wrongly: each fault is planted in a trained head, and found by replaying every reading."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from frspec_cli.answers.records import Answer
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.replay.doctor import SURE, Patient, advice, diagnose, without_template
from frspec_cli.replay.options import DoctorOptions
from frspec_cli.replay.readings import as_filed, nearest_rows, other_readings
from frspec_cli.subsets.subset import VocabularySubset
from tests.tiny import tiny_config, tiny_target

V = 97
OPTIONS = DoctorOptions(tree=TreeConfig(4, 1, 5), rounds=1, ceilings=False)


@pytest.fixture(scope="module")
def target():
    return tiny_target(config=tiny_config(vocab_size=V, initializer_range=0.15))


@pytest.fixture(scope="module")
def right(trained):
    """(the trained head with its own LM head, answers)."""
    head, rows, texts, _ = trained
    return remade(head, rows), [answer for answer, _ in texts]


def remade(head, rows, edit=lambda tensors: None, **fields):
    made = EagleHead(replace(head.config, **fields), embedding_weight=head.embedding_weight, own_lm_head=rows).double()
    tensors = dict(head.state_dict())
    edit(tensors)
    made.load_state_dict({name: tensors[name] for name in made.state_dict()})
    return made.requires_grad_(False)


def patient(target, head, answers, **more):
    return Patient(target, head, target.lm_head, more.pop("subset", None), answers, more.pop("recorded", {}))


def turned(tensors):
    tensors["fc.weight"] = torch.cat(tensors["fc.weight"].chunk(3, dim=1)[::-1], dim=1)


def swapped(tensors):
    for name in ("q_proj", "k_proj", "v_proj"):
        key = f"layers.0.self_attn.{name}.weight"
        tensors[key] = torch.cat(tensors[key].chunk(2, dim=1)[::-1], dim=1)


FAULTS = {
    "norm_output": ({"norm_output": False}, None, "norm_output is yes"),
    "norm_before_residual": ({"norm_before_residual": False}, None, "norm_before_residual is yes"),
    "window": ({"window": None}, None, "attention has a window of 4 positions"),
    "taps": ({"taps": (0, 1, 2)}, None, "the taps are hidden states 1, 2, 3"),
    "rope": ({"rope": {"rope_theta": 1.0, "rope_type": "default"}}, None, "positions rotate with the base "),
    "fc_order": ({}, turned, "fc reads the taps deepest first"),
    "input_order": ({}, swapped, "attention reads the feature before the embedding"),
}


@pytest.mark.parametrize("cause", FAULTS)
def test_a_planted_fault_is_named(target, right, cause):
    head, answers = right
    fields, edit, what = FAULTS[cause]
    wrong = remade(head, head.own_lm_head, *([edit] if edit else []), **fields)
    found = diagnose(patient(target, wrong, answers), OPTIONS)
    assert found["verdict"] == "reading"
    [change] = found["changes"]
    assert change["cause"] == cause
    assert change["what"].startswith(what)
    assert found["times"]["low"] > 1
    assert found["next"][0].startswith(f"Read it so that {change['what']}: ")


@pytest.mark.parametrize(("shift", "what"), [(1, "d2t is one too high"), (-1, "d2t is one too low")])
def test_a_map_that_is_off_by_one_is_named(target, right, shift, what):
    head, answers = right
    ids = (torch.arange(V - 2) + 1) if shift else None
    rows = head.own_lm_head.weight[1 : V - 1].contiguous()
    wrong = remade(head, LmHead(rows, ids=ids + shift), draft_vocab_size=V - 2)
    found = diagnose(patient(target, wrong, answers), OPTIONS)
    assert [(each["cause"], each["what"]) for each in found["changes"]] == [("d2t", what)]
    assert found["checks"]["nearest_rows"] is not None


@pytest.mark.parametrize("read_as", ["offsets", "ids"])
def test_a_map_read_as_the_other_kind_is_named(target, right, read_as):
    """Every second row of the head: the ids 0, 2, .. are the offsets 0, 1, .., and the other way round."""
    head, _ = right
    rows, places = head.own_lm_head.weight[::2].contiguous(), torch.arange(V // 2 + 1)
    rows, places = rows[:30], places[:30]
    ids = 3 * places if read_as == "offsets" else places
    wrong = remade(head, LmHead(rows, ids=ids), draft_vocab_size=30)
    names = {each.what: each.lm_head.ids.tolist() for each in other_readings(
        as_filed(wrong, target.lm_head), target_rope={}, layers=4, longest=40) if each.cause == "d2t"}  # fmt: skip
    what = "d2t holds token ids, not offsets" if read_as == "offsets" else "d2t holds offsets, not token ids"
    assert names[what] == (2 * places).tolist()


def test_two_faults_at_once_are_both_named(target, right):
    head, answers = right
    wrong = remade(head, head.own_lm_head, norm_output=False, window=None)
    found = diagnose(patient(target, wrong, answers), replace(OPTIONS, rounds=2))
    assert {each["cause"] for each in found["changes"]} == {"norm_output", "window"}


def test_a_head_that_is_read_rightly_is_left_as_it_is(target, right):
    head, answers = right
    found = diagnose(patient(target, head, answers), OPTIONS)
    assert (found["verdict"], found["changes"]) == ("own", [])
    assert found["times"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["readings"][0]["acceptance_length"] < SURE * found["acceptance_length"]
    assert found["acceptance_length"] > 2


def test_another_targets_head_is_known_by_drafting_nothing(target, right):
    """A head for other weights of the same sizes; what it records says so too."""
    head, answers = right
    generator = torch.Generator().manual_seed(5)
    wrong = remade(head, LmHead(torch.randn(V, head.config.hidden_size, generator=generator, dtype=torch.float64)))
    found = diagnose(patient(target, wrong, answers), OPTIONS)
    assert found["verdict"] == "target"
    assert found["checks"]["nearest_rows"] < 0.2
    assert any("No reading drafts" in line for line in found["next"])
    assert any("belong to other tokens, or to another target" in line for line in found["next"])


def test_the_rows_of_its_own_tokens_are_nearest(target):
    rows = target.lm_head
    assert nearest_rows(rows, rows.weight) == 1.0
    assert nearest_rows(LmHead(rows.weight, ids=(torch.arange(V) + 1) % V), rows.weight) == 0.0
    assert nearest_rows(LmHead(rows.weight[:, :8]), rows.weight) is None


def subset_of(ids):
    ids = np.asarray(ids, dtype=np.int32)
    zeros = np.zeros(len(ids), dtype=np.int64)
    return VocabularySubset(ids, [b"x"] * len(ids), zeros, zeros.astype(np.int8), {"k": len(ids)})


def test_a_stale_subset_is_told_from_one_that_fits(target, right):
    """The rarest answered tokens as the subset: one of every other answer's own accepts more on the rest."""
    head, answers = right
    counts = np.bincount(np.concatenate([a.ids[a.prompt_length :] for a in answers]), minlength=V)
    options = replace(OPTIONS, ceilings=True, rounds=1)
    order = np.argsort(-counts, kind="stable")
    stale = diagnose(patient(target, head, answers, subset=subset_of(order[::-1][:40])), options)
    fresh = diagnose(patient(target, head, answers, subset=subset_of(order[:40])), options)
    assert stale["ceilings"]["own_over_subset"]["low"] > 1
    assert any("The subset does not fit these texts" in line for line in stale["next"])
    assert not any("The subset does not fit" in line for line in fresh["next"])
    assert stale["ceilings"]["subset"]["value"] < fresh["ceilings"]["subset"]["value"] <= 1
    assert fresh["ceilings"]["wide_tree"]["value"] >= 1


def test_a_language_that_the_head_does_not_know_is_named(target, right):
    head, answers = right
    generator = np.random.default_rng(3)
    strange = [
        Answer(
            np.concatenate([a.ids[: a.prompt_length], generator.integers(1, V, 40)]), a.prompt_length, False, True, a.id
        )
        for a in answers[:8]
    ]
    mixed = [replace(a, language="known") for a in answers[8:]] + [replace(a, language="strange") for a in strange]
    found = diagnose(patient(target, head, mixed), replace(OPTIONS, rounds=1))
    assert any(line.startswith("By language, strange has 1.") for line in found["next"])


def test_prompts_that_it_was_trained_without_a_template_for_are_told(target, right):
    head, answers = right
    generator = np.random.default_rng(4)
    strange = [
        Answer(
            np.concatenate([a.ids[: a.prompt_length], generator.integers(1, V, 40)]), a.prompt_length, False, True, a.id
        )
        for a in answers
    ]
    assert without_template(patient(target, head, strange), answers, OPTIONS)["better"]
    assert not without_template(patient(target, head, answers), strange, OPTIONS)["better"]


def test_advice_on_the_targets_weights_and_embedding():
    found = {
        "changes": [], "verdict": "own", "ceilings": {}, "groups": {}, "limits": {"outside": 0.1, "beam": 0.2, "depth": 0.7},
        "checks": {"target_weights": False, "embedding_cosine": 0.1, "nearest_rows": None},
    }  # fmt: skip
    lines = advice(found)
    assert lines[0].startswith("The head records that it was made for a target with other weights")
    assert lines[1].startswith("The head brings an embedding that is not the target's")


def test_eagle2_heads_are_tried_with_other_scales_and_orders(target):
    """Embedding and feature swapped in fc, and Gemma's scale left out: there nothing norms the embedding."""
    config = replace(head_config_for(target.config, taps=(), layout="eagle2"), embedding_scale=32**0.5)
    head = EagleHead(config, embedding_weight=target.embedding).double()
    filed = as_filed(head, target.lm_head)
    found = {each.what: each for each in other_readings(filed, target_rope={}, layers=4, longest=40)}
    assert found["embeddings are unscaled"].head.config.embedding_scale == 1.0
    swapped_fc = found["fc reads the feature before the embedding"].head.fc.weight
    assert torch.equal(swapped_fc, torch.cat((head.fc.weight[:, 32:], head.fc.weight[:, :32]), dim=1))
    assert not {"taps", "norm_output", "d2t"} & {each.cause for each in found.values()}


def test_reduced_precision_is_one_more_reading(right, target):
    head, _ = right
    low = as_filed(remade(head, head.own_lm_head).to(torch.bfloat16), target.lm_head)
    low = replace(low, lm_head=LmHead(low.lm_head.weight.to(torch.bfloat16)))
    [exact] = [
        each for each in other_readings(low, target_rope={}, layers=4, longest=40) if each.cause == "dtype"
    ]  # fmt: skip
    assert {parameter.dtype for parameter in exact.head.parameters()} == {exact.lm_head.weight.dtype} == {torch.float32}


def test_the_command_looks_into_prompts_and_recorded_answers(cli, folder, tiny_folder):
    arguments = ["--model", tiny_folder, "--draft", folder / "head", "--vocab", folder / "s.parquet", "--tree", "3,1,4"]
    arguments += ["--device", "cpu", "--dtype", "float64", "--limit", 4]
    code, out, err = cli("doctor", "--answers", folder / "answers.jsonl", *arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["answers"]["answers"] == 4
    assert found["readings"][0]["acceptance_length"] >= found["readings"][-1]["acceptance_length"]
    assert {"taps", "fc_order", "window", "rope"} <= {each["cause"] for each in found["readings"]}
    assert found["template"] is None
    code, out, err = cli("doctor", "--answers", folder / "prompts.jsonl", *arguments, "-n", 8)
    assert code == 0, err
    assert "acceptance under each reading" in err
    assert "why drafts stopped" in err


def test_a_head_is_needed(cli, tiny_folder):
    code, _, err = cli("doctor", "--model", tiny_folder, "--device", "cpu")
    assert (code, " ".join(err.split())) == (
        1,
        "error: there is no draft head to look into. Name one with --draft.",
    )
