"""What all tests stand on: no network, no home folder, tiny models and tokenizers made in-process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest_plugins = ["tests.fixtures.tiny_target", "tests.fixtures.tiny_bench", "tests.fixtures.trained_head"]
# Importing our own `tests.tiny` helpers works from any test module, however deep.
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a hub snapshot: a tiny random Llama with a byte-level tokenizer and a chat template."""
    from tests.tiny import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync costs most of a small test's time and shows in no result; tests/test_storage.py has its own, empty fixture."""
    monkeypatch.setattr("frspec_cli.storage._sync", lambda path: None)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: waiting for a second thread costs more than it does
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cli():
    """Runs the command line in-process as `frspec` would: `cli("generate", ...)` -> (exit code, stdout, stderr)."""
    from tests.tiny import run_cli

    return run_cli


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`cuda` tests skip where there is no device."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
