"""Peers' own code on our exports. `make test-peers` names the folder of their environments; else nothing is collected."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.peers.environments import python_of, reason_file

FOLDER = Path(os.environ.get("FRSPEC_PEERS", "")).resolve()  # now: tests change the folder
collect_ignore_glob = [] if "FRSPEC_PEERS" in os.environ else ["test_*.py"]

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def in_peer(tmp_path) -> Callable[..., Tensors]:
    """Runs a script of this folder in a peer's environment: `in_peer(peer, script, *arguments, **tensors)` -> tensors.

    The script finds its tensors in the file that its first argument names, and writes others into the second. It runs in
    an empty folder, without a hub.
    """

    def run(peer: str, script: str, *arguments: object, **tensors: torch.Tensor) -> Tensors:
        if reason_file(FOLDER, peer).is_file():
            pytest.skip(reason_file(FOLDER, peer).read_text())
        elsewhere = tmp_path / f"{peer}-{script}"
        elsewhere.mkdir(exist_ok=True)
        given, made = elsewhere / "given.safetensors", elsewhere / "made.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, given)
        environment = (
            os.environ
            | {
                "HF_HUB_OFFLINE": "1",
                "HF_HOME": str(elsewhere / "hub"),
                "OMP_NUM_THREADS": "1",
                "TORCHDYNAMO_DISABLE": "1",  # SpecForge would compile parts of its layer, which takes longer than all the rest
            }
        )
        environment.pop("PYTHONPATH", None)
        command = [python_of(FOLDER, peer), Path(__file__).parent / script, given, made, *arguments]
        done = subprocess.run(
            list(map(str, command)), cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return load_file(made)

    return run
