"""A full disk is one sentence in every command, and nothing half-written stays."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from frspec_cli import storage
from frspec_cli.errors import FrspecError
from frspec_cli.tensor_files import disk_errors
from frspec_cli.training.checkpoint import SavedRun
from frspec_cli.training.features import FeatureStore
from tests.counting.corpora import byte_level, texts, write_jsonl

Command = Callable[[Path, Path], list[object]]
COMMANDS: dict[str, Command] = {
    "count-freq": lambda made, out: [made / "corpus.jsonl", "-t", made / "tk", "-o", out / "c.parquet", "--workers", 1],
    "merge": lambda made, out: [made / "counts.parquet", made / "other.parquet", "-o", out / "m.parquet"],
    "build-vocab": lambda made, out: [made / "counts.parquet", "--k", 30, "--k", 40, "-o", out / "subsets"],
    "export-vocab": lambda made, out: [made / "subset.parquet", "--to", "speculators", "-o", out / "pair"],
    "import-vocab": lambda made, out: [made / "ids.pt", "--tokenizer", made / "tk", "-o", out / "s.parquet"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import run_cli

    folder = tmp_path_factory.mktemp("made")
    byte_level(folder / "tk")
    write_jsonl(folder / "corpus.jsonl", texts(20))
    write_jsonl(folder / "other.jsonl", texts(21))
    counts, subset = folder / "counts.parquet", folder / "subset.parquet"
    for corpus, table in (("corpus.jsonl", counts), ("other.jsonl", folder / "other.parquet")):
        assert run_cli("count-freq", folder / corpus, "-t", folder / "tk", "-o", table, "--workers", 1)[0] == 0
    assert run_cli("build-vocab", counts, "--k", 40, "-o", subset)[0] == 0
    assert run_cli("export-vocab", subset, "--to", "sglang", "-o", folder / "ids.pt")[0] == 0
    return folder


@pytest.fixture
def full_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, on which no byte is left."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small disk")
    try:
        with open(folder / "filler", "wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _check(result: tuple[int, str, str], folder: Path) -> None:
    code, out, err = result
    assert (code, out) == (1, "")
    assert "error: " in err
    assert "No space left on device" in err
    assert list(folder.rglob(".*.tmp")) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills_up_is_one_sentence(name: str, made: Path, tmp_path: Path, monkeypatch, cli) -> None:
    monkeypatch.setattr(storage, "_sync", _full)
    _check(cli(name, *COMMANDS[name](made, tmp_path)), tmp_path)
    if name != "count-freq":  # what it has counted is kept for the next run
        assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_full_is_one_sentence(name: str, made: Path, full_folder: Path, cli) -> None:
    _check(cli(name, *COMMANDS[name](made, full_folder)), full_folder)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_stdout_on_a_full_disk_is_one_sentence(made: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "frspec_cli", "inspect", "--json", str(made / "counts.parquet")]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("error: nothing more can be written: No space left on device.")
    assert "Traceback" not in run.stderr
    assert "Exception ignored" not in run.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_metrics_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    saved = SavedRun(tmp_path / "head")
    saved.folder.mkdir()
    saved.metrics.symlink_to("/dev/full")
    with pytest.raises(FrspecError, match="cannot be written: No space left on device"):
        saved.log({"step": 1})


def test_features_that_do_not_fit_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list = [SimpleNamespace(ids=torch.zeros(1), prompt_length=0)]
    store = FeatureStore(SimpleNamespace(dtype="float32"), answers, taps=(), folder=tmp_path, identity="x")
    monkeypatch.setattr(store, "_path", lambda number: tmp_path / "features.safetensors")
    monkeypatch.setattr(store, "_compute", lambda number: {"0.last": torch.zeros(4)})
    monkeypatch.setattr(Path, "write_bytes", _full)
    with pytest.raises(FrspecError, match=r"features\.safetensors cannot be written: No space left on device"):
        _ = store[0]
    assert list(tmp_path.iterdir()) == []


def test_weights_that_a_library_cannot_write_are_an_os_error(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    with pytest.raises(OSError, match="No space left on device") as caught, disk_errors():
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(SafetensorError), disk_errors():
        raise SafetensorError("invalid header length")
