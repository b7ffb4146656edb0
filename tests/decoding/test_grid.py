"""Identity over a grid: families x tree shapes x subset sizes x draft qualities x lengths x end of text x sampling.

Tiny float64 models, so identical means identical, without exceptions. The drafts are good enough to be accepted in part:
where nothing or everything is accepted, little is shown, so the grid says how often that was not so.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frspec_cli.decoding import attention
from frspec_cli.decoding.cache import SlotBuffer
from frspec_cli.decoding.drafters import Drafter, EagleDrafter, NoDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.generation import Generation
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.decoding.tree import Candidates, Tree, grow, likeliest, rerank
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.models.target import Target
from tests.decoding.families import FAMILIES
from tests.models.test_target import SMALL, family_model
from tests.tiny import NoProcessor

VOCAB, WINDOW, LARGE = SMALL["vocab_size"], 8, 24
FACTORS: dict[str, tuple[Any, ...]] = {
    "family": tuple(FAMILIES),
    "depth": (0, 1, 2, 3, 5, 8),
    "beam": (1, 3),
    "nodes": (2, 6, 24),
    "k": (1, 2, VOCAB // 8, VOCAB // 2, VOCAB - 1, VOCAB),
    "draft": (
        "target",
        "target + 0.4",
        "target + 0.8",
        "target + 1.6",
        "second best",
        "outside the text",
        "head",
    ),
    "prompt": (1, 2, WINDOW - 1, WINDOW, WINDOW + 1, 30),
    "new": (1, 2, "depth", "depth + 1", 16, LARGE),
    "eos": (None, 0, 1, 2, 4, 7, 13, 19),
    "sampled": (False, True),
}
Case = dict[str, Any]


def all_pairs(factors: dict[str, tuple[Any, ...]], seed: int = 0) -> list[Case]:
    """Cases in which every two values of two factors meet: greedy, each case the best of some random ones."""
    names, draw = list(factors), random.Random(seed)

    def pairs(case: Case) -> set[tuple[Any, ...]]:
        return {(a, case[a], b, case[b]) for a, b in itertools.combinations(names, 2)}

    missing = {
        (a, x, b, y) for a, b in itertools.combinations(names, 2) for x, y in itertools.product(factors[a], factors[b])
    }
    cases: list[Case] = []
    while missing:
        a, x, b, y = min(missing, key=repr)
        tries = [{name: draw.choice(factors[name]) for name in names} | {a: x, b: y} for _ in range(40)]
        best = max(tries, key=lambda case: len(pairs(case) & missing))
        missing -= pairs(best)
        cases.append(best)
    return cases


class TargetDrafter:
    """Drafts with the target itself, from scratch and without a cache, spoilt in one way (see `_spoil`).

    So the drafts are right, nearly right or always wrong, over any subset, chain or tree.
    """

    taps: tuple[int, ...] = ()

    def __init__(self, model: Any, how: str, ids: torch.Tensor, shape: TreeConfig) -> None:
        self.model, self.how, self.ids = model, how, ids
        self.k = len(ids)
        self.tree = shape.within(self.k)
        self.depth, self.nodes = self.tree.depth, self.tree.nodes

    def reset(self, *, length: int) -> None:
        self.text: list[int] = []

    def append_tokens(self, tokens: Sequence[int]) -> None:
        self.text.extend(tokens)

    def append_states(
        self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...], start: torch.Tensor
    ) -> None:
        pass

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        assert self.text[-1] == int(root)
        assert len(self.text) == int(position) + 1
        paths = [list(self.text)]

        def step(tokens: torch.Tensor, came_from: torch.Tensor, level: int) -> Candidates:
            nonlocal paths
            paths = [[*paths[old], token] for old, token in zip(came_from[0].tolist(), tokens[0].tolist(), strict=True)]
            return self._candidates(paths)

        pool = grow(self._candidates(paths), step, lambda rows: self.ids[rows], self.tree)
        return rerank(root, pool, self.tree)

    def _candidates(self, paths: list[list[int]]) -> Candidates:
        logits = self.model(input_ids=torch.tensor(paths), use_cache=False, logits_to_keep=1).logits[:, -1]
        return likeliest(self._spoil(logits, len(paths[0]))[None, :, self.ids], self.tree.beam)

    def _spoil(self, logits: torch.Tensor, seed: int) -> torch.Tensor:
        if self.how == "second best":
            return logits.scatter(1, logits.argmax(dim=-1, keepdim=True), -1e6)
        if "+" in self.how:
            noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=logits.dtype)
            return logits + float(self.how.split("+")[1]) * logits.std() * noise
        return logits


class PaddedDrafter(NoDrafter):
    """Plain decoding through the step that verifies `nodes` rows: all but the root are padding, never accepted."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        rows = torch.arange(self.nodes)
        return Tree(
            tokens=root.expand(self.nodes),
            parents=torch.zeros_like(rows),
            levels=torch.zeros_like(rows),
            ancestors=(rows[:, None] == rows[None, :]) | (rows[None, :] == 0),
            valid=rows == 0,
        )


@cache
def _model(family: str) -> Any:
    return family_model(family)


def _target(family: str, eos: int | None = None) -> Target:
    processor = NoProcessor()
    processor.eos_token_id = eos
    return Target(name=family, folder=Path("."), model=_model(family), processor=processor)


def _prompt(length: int) -> list[int]:
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def _sampling(sampled: bool) -> Sampling | None:
    return Sampling(temperature=1.1, top_p=0.98, seed=5) if sampled else None


@cache
def _plain(family: str, prompt: int, sampled: bool) -> list[int]:
    engine = Engine(_target(family))
    return engine.complete(
        _prompt(prompt), max_new_tokens=LARGE, sampling=_sampling(sampled), ignore_eos=True
    ).token_ids


def _drafter(case: Case, target: Target) -> Drafter:
    if not case["depth"]:
        return PaddedDrafter(case["nodes"])
    shape = TreeConfig(case["depth"], case["beam"], case["nodes"])
    order = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(case["k"])).tolist()
    text = set(_plain(case["family"], case["prompt"], case["sampled"]))
    frequent = set(list(text)[: len(text) * 2 // 3])
    if case["draft"] == "outside the text":
        order.sort(key=lambda token: token in text)
    else:
        order.sort(key=lambda token: token not in frequent)
    ids = torch.tensor(order[: case["k"]])
    if case["draft"] != "head":
        return TargetDrafter(target.model, case["draft"], ids, shape)
    torch.manual_seed(1)
    head = EagleHead(head_config_for(target.config, taps=(1,)), embedding_weight=target.embedding)
    rows: LmHead = target.lm_head if case["k"] == VOCAB else target.lm_head.rows(ids)
    return EagleDrafter(head.to(target.dtype).eval().requires_grad_(False), rows, shape)


def _check(case: Case) -> Generation:
    """Runs a case and compares with plain decoding: ids, where the text ends, and how many passes it took."""
    plain = _plain(case["family"], case["prompt"], case["sampled"])
    new = {"depth": max(1, case["depth"]), "depth + 1": case["depth"] + 1}.get(case["new"], case["new"])
    expected = plain[:new]
    new_there = [place for place, token in enumerate(plain) if token not in plain[:place]]
    eos = next((plain[place] for place in new_there if case["eos"] is not None and place >= case["eos"]), None)
    target = _target(case["family"], eos)
    ends = [] if eos is None else [place for place, token in enumerate(expected) if token in target.eos_ids]
    expected = expected[: ends[0] + 1] if ends else expected
    found = Engine(target, _drafter(case, target)).complete(
        _prompt(case["prompt"]), max_new_tokens=new, sampling=_sampling(case["sampled"]), ignore_eos=eos is None
    )
    assert found.token_ids == expected
    assert found.cycles <= len(expected) - 1
    return found


CASES = all_pairs(FACTORS)
TREE: Case = {
    "family": "Llama", "depth": 5, "beam": 3, "nodes": 40, "k": VOCAB, "draft": "target", "prompt": 7,
    "new": 20, "eos": None, "sampled": False,
}  # fmt: skip


def test_every_pair_of_settings_decodes_what_plain_decoding_does() -> None:
    partly = 0
    for case in CASES:
        try:
            found = _check(case)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error
        partly += 0 < sum(found.accepted) < case["depth"] * found.cycles
    assert partly > len(CASES) / 10  # texts of which some drafts were accepted and some not: else this shows little


@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=st.fixed_dictionaries({name: st.sampled_from(values) for name, values in FACTORS.items()}))
def test_any_settings_decode_what_plain_decoding_does(case: Case) -> None:
    _check(case)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=st.fixed_dictionaries({name: st.sampled_from(values) for name, values in FACTORS.items()}))
def test_many_more_settings_decode_what_plain_decoding_does(case: Case) -> None:
    _check(case)


@pytest.mark.parametrize("mistake", ["move", "windows"])
def test_the_grid_sees_planted_mistakes(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepted rows that stay where the tree had them; a window that is one position too wide."""
    if mistake == "move":
        monkeypatch.setattr(SlotBuffer, "move", lambda *_: None)
        cases = [{**TREE, "family": family, "draft": how} for family in FAMILIES for how in FACTORS["draft"][:4]]
    else:
        honest = attention.layer_windows
        cases = [case for case in CASES if case["family"] in ("Mistral", "Gemma2", "Gemma3Text")]
        for case in cases:
            _plain(case["family"], case["prompt"], case["sampled"])
        wider = {WINDOW: WINDOW + 1}
        monkeypatch.setattr(
            attention,
            "layer_windows",
            lambda config: (
                {kind: wider.get(size, size) for kind, size in honest(config)[0].items()},
                honest(config)[1],
            ),
        )
    with pytest.raises(AssertionError):
        [_check(case) for case in cases]


@pytest.mark.parametrize("beam", [1, 3])
def test_a_text_ends_at_eos_at_every_place_of_an_accepted_run(beam: int) -> None:
    """Drafts by the target itself, depth 5: accepted runs of up to six tokens, and EOS at each place of the first three."""
    case = TREE | {"beam": beam}
    assert _check(case).accepted.count(5) >= 2
    for place in range(19):
        _check(case | {"eos": place})
