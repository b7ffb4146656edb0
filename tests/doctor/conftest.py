"""A trained head as it is looked into, with a fault planted in it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.doctor.diagnosis import diagnose
from frspec_cli.doctor.options import DoctorOptions
from frspec_cli.doctor.replays import DraftSetup
from frspec_cli.heads.head import EagleHead
from frspec_cli.resume import RunFolder
from tests.fixtures.trained_head import target_of

OPTIONS = DoctorOptions(tree=TreeConfig(4, 1, 5), changes=1, ceilings=False)


@pytest.fixture(scope="session")
def target():
    return target_of()


@pytest.fixture(scope="session")
def right(trained):
    """(the trained head with its own LM head, the beginnings of its answers: enough to tell, and quick)."""
    head, rows, texts, _ = trained
    return remade(head, rows), [replace(answer, ids=answer.ids[:26]) for answer, _ in texts]


@pytest.fixture
def looked_into(tmp_path):
    """Diagnoses a head over answers: `looked_into(target, head, answers, options, subset=...)`."""
    count = 0

    def look(target, head, answers, options=OPTIONS, *, other_prompts=None, checks=None, **setup):
        nonlocal count
        count += 1
        folder = tmp_path / f"run-{count}"
        folder.mkdir()
        made = DraftSetup(target, head, target.lm_head, **setup)
        return diagnose(made, answers, options, RunFolder(folder), other_prompts=other_prompts, checks=checks)

    return look


def remade(head, rows, edit=lambda tensors: None, **fields):
    """The head with other fields of its config, other rows, and tensors that `edit` changes."""
    made = EagleHead(replace(head.config, **fields), embedding_weight=head.embedding_weight, own_lm_head=rows).double()
    tensors = dict(head.state_dict())
    edit(tensors)
    made.load_state_dict({name: tensors[name] for name in made.state_dict()})
    return made.requires_grad_(False)


def causes(found):
    return [fault["cause"] for fault in found["faults"]]
