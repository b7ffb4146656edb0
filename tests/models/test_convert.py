"""Conversions into the cache: once, whatever processes need them at the same time, and never over a folder in use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from frspec_cli.models import convert
from frspec_cli.models.embedded import EMBEDDED
from frspec_cli.models.locate import locate_model, locate_tokenizer

CONVERT = """
import sys, time
from pathlib import Path
from frspec_cli import storage
from frspec_cli.models import convert

def write(gguf, folder):
    with open(sys.argv[1], "a") as log:
        log.write("converted\\n")
    while not Path(sys.argv[2]).exists():  # until the other one waits
        time.sleep(0.002)
    with storage.atomic_folder(folder, keep_existing=True) as temporary:
        (temporary / "config.json").write_text("{}")

convert._write_model = write
print("ready", flush=True)
sys.stdin.readline()

def say(text):
    print(text)
    if text.startswith("another"):
        Path(sys.argv[2]).touch()

print(convert.convert_model(lambda: Path("m.gguf"), "m", "0123456789abcdef", say=say))
"""


def test_of_two_processes_one_converts_and_the_other_waits(tmp_path):
    environment = os.environ | {"FRSPEC_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", CONVERT, str(tmp_path / "log"), str(tmp_path / "waits")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    shown = [run.communicate(timeout=60)[0].splitlines() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert (tmp_path / "log").read_text() == "converted\n"
    assert {lines[-1] for lines in shown} == {str(tmp_path / "cache" / "models" / "m-0123456789ab-v1")}
    assert sorted(lines[0].split()[0] for lines in shown) == ["another", "converting"]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FRSPEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_a_killed_conversion_left_is_removed(cache, monkeypatch):
    models = cache / "models"
    leftover, other = models / ".m-0123456789ab-v1.77-abcd.tmp", models / ".n-0123456789ab-v1.77-abcd.tmp"
    leftover.mkdir(parents=True)
    other.mkdir()
    monkeypatch.setattr(convert, "_write_model", lambda gguf, folder: folder.mkdir())
    convert.convert_model(lambda: Path("m.gguf"), "m", "0123456789abcdef", say=lambda text: None)
    assert sorted(path.name for path in models.iterdir()) == [other.name, "m-0123456789ab-v1"]


def test_a_converted_model_serves_its_tokenizer_too(cache, monkeypatch):
    """The .gguf is gone once the model is converted: neither use may ask for it again."""
    model = EMBEDDED["smollm2-135m"]
    folder = convert.converted_folder(model.name, model.sha256)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    monkeypatch.setattr("frspec_cli.models.locate.find_gguf", lambda *_, **__: pytest.fail("asked for the .gguf"))
    assert locate_model(model.name) == folder
    assert locate_tokenizer(model.name) == folder / "tokenizer.json"
