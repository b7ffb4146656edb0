"""What all tests stand on: no network, no home folder, tiny models and tokenizers made in-process."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background job, and children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
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


FAST_BFLOAT16 = {
    "kind": "probe",
    "schema": 1,
    "machine": {},
    "torch": "0",
    "numbers": 28_000_000,
    "products": [
        {"dtype": dtype, "rows": rows, "ms": ms}
        for dtype, times in (("bfloat16", (2.0, 2.1, 2.4)), ("float32", (4.0, 4.2, 5.0)))
        for rows, ms in zip((1, 4, 16), times, strict=True)
    ],
    "layer_ms": 0.2,
}
"""A probe of a machine with bfloat16 instructions: on every machine `auto` means this in tests, and nothing is timed."""


_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def one_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test depends on how fast or how busy this machine is, nor on what a user has tuned here."""
    from frspec_cli.tuning.probe import Probe

    empty = tmp_path_factory.getbasetemp() / f"tunes-of-test-{next(_NUMBERS)}"
    monkeypatch.setattr("frspec_cli.tuning.choose.probe_for", lambda *_, **__: Probe.model_validate(FAST_BFLOAT16))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr("frspec_cli.tuning.tune_file.kept", lambda kind, key: empty / f"{kind}.json")


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
