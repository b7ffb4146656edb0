"""The GPU path, proved without a GPU: a cycle on the meta device, where nothing may mix devices or read on the host.

Meta alone lets CPU index tensors, matmul operands and 0-dim tensors pass, so a dispatch mode looks at every operation;
each kind of leak is planted once, to see that it is found.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.decoding.state import State
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import lm_head_of
from frspec_cli.models.target import Target
from tests.decoding.families import DENSE
from tests.models.test_target import family_model
from tests.tiny import NoProcessor

HOST_READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item"}


class OneDevice(TorchDispatchMode):
    """Fails on an operation that mixes devices, makes a tensor elsewhere, or makes the host wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in HOST_READS:
            raise AssertionError(f"host read: {name}")
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs or {}, out)):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                raise AssertionError(f"{name} touches a tensor on {leaf.device.type}")
        return out


def _engine(family: str = "Llama") -> Engine:
    model = family_model(family)
    here = lm_head_of(model).rows(torch.arange(50))  # compared with the model's logits, which meta does not have
    model.to("meta")
    target = Target(name=family, folder=Path("."), model=model, processor=NoProcessor())
    head = EagleHead(head_config_for(model.config, taps=(1,)), embedding_weight=target.embedding)
    head = head.to("meta", target.dtype).requires_grad_(False)
    moved = {name: tensor.to("meta") for name, tensor in vars(here).items() if isinstance(tensor, torch.Tensor)}
    rows = dataclasses.replace(here, **moved)
    return Engine(target, EagleDrafter(head, rows, TreeConfig(4, 3, 12)))


def _prefilled(engine: Engine) -> State:
    """A cycle's input, after a prompt of seven tokens."""
    return engine.prefill(range(7), engine.cache_length(7, 40))[0]


@pytest.mark.parametrize("family", DENSE)
def test_a_cycle_stays_on_its_device_and_never_waits(family: str) -> None:
    engine = _engine(family)
    state = _prefilled(engine)
    noise = torch.zeros(engine.drafter.depth + 1, engine.target.rows, device="meta")
    with OneDevice():
        for warpers, rows in (((), None), (Sampling(temperature=0.7, top_k=5, top_p=0.9).warpers(), noise)):
            state, done = engine.cycle(state, warpers, rows)
            assert done.outcome.shape == (engine.drafter.depth + 2,)


LEAKS = {
    "index on the host": lambda tree, engine: engine.workspace(256).buffer.data[:, :, :, torch.arange(3)],
    "operand on the host": lambda tree, engine: engine.target.embedding @ torch.zeros(32, 2, dtype=torch.float64),
    "scalar tensor on the host": lambda tree, engine: tree.levels + torch.tensor(1),
    "copy to the device": lambda tree, engine: tree.tokens.copy_(torch.zeros(12, dtype=torch.int64)),
    "host read": lambda tree, engine: bool(tree.valid[0]),
    "shape that depends on data": lambda tree, engine: tree.tokens[tree.valid],
}


@pytest.mark.parametrize("leak", LEAKS)
def test_planted_leaks_are_found(leak: str) -> None:
    engine = _engine()
    state = _prefilled(engine)
    with torch.inference_mode():
        tree = engine.drafter.propose(state.root, state.committed, state.valid)
    with OneDevice(), torch.inference_mode(), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        LEAKS[leak](tree, engine)
