"""An output never destroys what it did not make: each refusal in its words, with the thing refused left as it was."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from frspec_cli import outputs, resume, storage
from frspec_cli.errors import FrspecError, as_flags


def refusal(out: Path | str, **rules) -> str:
    """The sentence in which `outputs.check` refuses, as the command line shows it."""
    with pytest.raises(FrspecError) as caught:
        outputs.check(out, **rules)
    replaceable = as_flags(caught.value.message).endswith("exists and is not a frequency table.")
    other = "--force replaces it; or choose another --out." if replaceable else "Choose another --out."
    assert as_flags(caught.value.hint) == other
    return as_flags(caught.value.message)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that a command reads."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "weights").write_text("many")
    return folder


def test_an_input_is_refused_by_any_of_its_names(tmp_path, model, monkeypatch) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("{}")
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "twin")
    monkeypatch.chdir(model)
    for out in (source, tmp_path / "link", tmp_path / "twin", "../in.jsonl"):
        assert refusal(out, inputs=["owner/name", None, source]) == f"--out {out} is an input."
    assert refusal(tmp_path / "link", inputs=[tmp_path / "link"]) == f"--out {tmp_path / 'link'} is an input."
    assert source.read_text() == "{}"


def test_a_folder_that_is_or_holds_an_input_is_refused(tmp_path, model) -> None:
    anything = {"kind": "folder", "replaces": lambda folder: True}
    assert refusal(model, inputs=[model], **anything) == f"--out {model} is an input."
    assert (
        refusal(model, inputs=[model / "weights"], **anything) == f"--out {model} holds the input {model / 'weights'}."
    )
    assert refusal(tmp_path, inputs=[model], **anything) == f"--out {tmp_path} holds the input {model}."


def test_a_part_of_an_input_is_refused_and_a_new_file_in_it_is_not(model) -> None:
    part = model / "config.json"
    assert refusal(part, inputs=[model]) == f"--out {part} is a part of the input {model}."
    assert outputs.check(model / "new.json", inputs=[model]) == model / "new.json"
    assert outputs.check(part, inputs=[model], replaces=outputs.JSON) == part  # what the same command wrote before


def test_files_and_folders_are_not_taken_for_each_other(tmp_path, model) -> None:
    assert refusal(model) == f"--out {model} is a folder, and a file is written: give a file's name."
    file = model / "weights"
    assert refusal(file, kind="folder") == f"--out {file} is a file, and a folder is written: give a folder's name."
    below = file / "x" / "y"
    assert refusal(below) == f"--out {below} cannot be written: {file} is a file, not a folder."


def test_only_what_is_of_the_kind_is_replaced(tmp_path, model) -> None:
    rules = {"replaces": outputs.PARQUET, "what": "a frequency table"}
    assert refusal(model / "weights", **rules) == f"--out {model / 'weights'} exists and is not a frequency table."
    assert refusal(model, kind="folder", what="a draft head") == f"--out {model} exists and is not a draft head."
    (tmp_path / "table").write_bytes(b"PAR1...")
    (tmp_path / "empty").touch()
    (tmp_path / "void").mkdir()
    for name in ("table", "empty", "new", "deep/er/new"):
        assert outputs.check(tmp_path / name, **rules) == tmp_path / name
    assert outputs.check(tmp_path / "void", kind="folder", what="a draft head") == tmp_path / "void"
    assert not (tmp_path / "deep").exists()  # nothing is made by asking


def test_a_head_is_recognised_by_its_own_config(tiny_folder, folder, tmp_path) -> None:
    from frspec_cli.heads.files import holds_only_head

    assert holds_only_head(folder / "head")
    assert not holds_only_head(tiny_folder)
    copy = tmp_path / "head"
    copy.mkdir()
    for file in (folder / "head").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert holds_only_head(copy)
    (copy / "notes.txt").write_text("of mine")
    assert not holds_only_head(copy)


def test_home_is_expanded(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert outputs.check("~/x") == tmp_path / "x"
    storage.write_text("~/x", "text")
    assert (tmp_path / "x").read_text() == "text"


def test_names_that_no_file_can_have(tmp_path, monkeypatch) -> None:
    long = tmp_path / ("x" * 300)
    assert refusal(long) == f"--out {long} has a name of more than 200 bytes."
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert refusal(loop) == f"--out {loop} cannot be written: Too many levels of symbolic links."
    assert "cannot be written: " in refusal("\ud800")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert refusal("x") == "--out x cannot be written: No such file or directory."


def test_a_folder_that_is_read_only(tmp_path, monkeypatch) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    out = tmp_path / "locked" / "x"
    if os.geteuid() == 0:  # root may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: not (mode & os.W_OK))
    assert refusal(out) == f"--out {out} cannot be written: {tmp_path / 'locked'} is read-only."


def test_sockets_and_folders_in_place_of_streams(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        assert refusal("socket") == "--out socket is a socket."
    assert stat.S_ISSOCK(os.stat("socket").st_mode)
    said = "is a device or a pipe, and a folder is written: give a folder's name."
    assert refusal(os.devnull, kind="folder") == f"--out {os.devnull} {said}"


def test_a_symlink_stays_and_its_target_is_replaced(tmp_path) -> None:
    for name in ("file", "dangling"):
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
    storage.write_text(tmp_path / "far" / "file", "old")
    for name in ("file", "dangling"):
        storage.write_text(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "far" / name).read_text() == "new"
    (tmp_path / "far" / "head").mkdir()
    (tmp_path / "head").symlink_to(tmp_path / "far" / "head")
    with storage.atomic_folder(tmp_path / "head") as temporary:
        (temporary / "config.json").write_text("{}")
    assert (tmp_path / "head").is_symlink()
    assert [file.name for file in (tmp_path / "far" / "head").iterdir()] == ["config.json"]


def test_devices_and_pipes_are_written_to(tmp_path) -> None:
    storage.write_text(os.devnull, "gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with contextlib.closing(os.fdopen(reader, "rb")) as file:
        storage.write_text(outputs.check(pipe), "through")
        assert file.read() == b"through"
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_the_run_folder_of_a_stream_is_not_beside_it() -> None:
    folder = resume.run_folder(os.devnull)
    assert folder.parent != Path(os.devnull).parent
    assert folder == resume.run_folder(os.devnull)


def test_a_folder_that_is_not_a_runs_is_not_emptied(model) -> None:
    with pytest.raises(FrspecError, match="exists and is not the folder of a run"), resume.RunFolder.opened(model):
        pass
    assert sorted(file.name for file in model.iterdir()) == ["config.json", "weights"]


STDOUT = """
import sys
from frspec_cli import outputs, storage
from frspec_cli.cli.output import Output

out = outputs.check("-")
output = Output(out=out)
output.table("title", ["a"], [[1]])
output.data("talk")
storage.write_text(out, "data\\n")
"""


def test_stdout_gets_the_file_and_nothing_else(tmp_path) -> None:
    run = subprocess.run([sys.executable, "-c", STDOUT], capture_output=True, text=True, check=True)
    assert run.stdout == "data\n"
    assert "title" in run.stderr
    assert "talk" in run.stderr
    with open(tmp_path / "log", "w") as log:  # the shell's `>> log`: what was there stays
        log.write("before\n")
        log.flush()
        subprocess.run([sys.executable, "-c", STDOUT], stdout=log, stderr=subprocess.DEVNULL, check=True)
    assert (tmp_path / "log").read_text() == "before\ndata\n"


def snapshot(*paths: Path) -> dict[Path, bytes]:
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return {file: file.read_bytes() for file in files}


COMMANDS = {
    "count-freq of a part": "count-freq {run}/prompts.jsonl -t {model} -o {model}/tokenizer.json",
    "count-freq": "count-freq {run}/prompts.jsonl -t {model} -o {run}/prompts.jsonl",
    "count-freq of a folder": "count-freq {run} --glob *.parquet -t {model} -o {run}/counts.parquet",
    "merge": "merge {run}/counts.parquet -o {run}/counts.parquet",
    "build-vocab": "build-vocab {run}/counts.parquet --k 9 --tokenizer {model} -o {run}/counts.parquet",
    "build-vocab --format": "build-vocab {run}/counts.parquet --k 9 --tokenizer {model}/tokenizer.json --format json "
    "-o {model}/tokenizer",
    "build-vocab --k --k": "build-vocab {run}/counts.parquet --k 9 --k 8 --tokenizer {model} -o {run}/counts.parquet",
    "coverage": "coverage {run}/s.parquet --on {run}/a.png --plot {run}/a.png",
    "export-vocab": "export-vocab {run}/s.parquet --to json -o {run}/s.parquet",
    "export-vocab, a folder": "export-vocab {run}/d2t.npy --to speculators -o {run}",
    "import-vocab": "import-vocab {run}/s.parquet --tokenizer {model} -o {run}/s.parquet",
    "collect": "collect {run}/prompts.jsonl --model {model} -o {run}/prompts.jsonl",
    "train-draft, the model": "train-draft {run}/answers.jsonl --model {model} -o {model}",
    "train-draft, its parent": "train-draft {run}/answers.jsonl --model {run}/model -o {run}",
    "train-draft": "train-draft {run}/answers.jsonl --model {model} -o {run}",
    "export-draft": "export-draft {run}/head --to eagle -o {run}/head",
    "export-draft, a model": "export-draft {run}/head --to eagle -o {model}",
    "verify": "verify --model {model} --prompts {run}/prompts.jsonl -o {run}/prompts.jsonl",
    "bench": "bench --suite {run}/prompts.jsonl --model {model} -o {run}/prompts.jsonl",
    "replay": "replay {run}/answers.jsonl --model {model} -o {run}/answers.jsonl",
    "doctor": "doctor --answers {run}/answers.jsonl --model {model} -o {run}/answers.jsonl",
    "tune": "tune {run}/answers.jsonl --model {model} -o {run}/answers.jsonl",
    "profile": "profile --suite {run}/prompts.jsonl --model {model} -o {run}/prompts.jsonl",
    "report": "report {run}/prompts.jsonl -o {run}/prompts.jsonl",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_destroys_its_inputs(cli, command, folder, tiny_folder, tmp_path) -> None:
    """Every command that writes, told to write where it reads: one sentence, and all is as it was."""
    run = tmp_path / "run"
    run.mkdir()
    model = tmp_path / "model"
    for source, target in ((folder, run), (tiny_folder, model)):
        for file in source.rglob("*"):
            if file.is_file():
                copy = target / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
    (run / "a.png").write_bytes(b"\x89PNG")
    (run / "d2t.npy").write_bytes(b"\x93NUMPY")
    (run / "model").symlink_to(model)
    before = snapshot(run, model)
    code, out, err = cli(*(part.format(run=run, model=model) for part in command.split()))
    said = " ".join(err.split())
    assert (code, out) == (1, ""), err
    assert said.startswith("error: --plot" if command.startswith("coverage") else "error: --out"), err
    assert said.endswith("Choose another --plot." if command.startswith("coverage") else "Choose another --out."), err
    assert snapshot(run, model) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run"]


def test_the_demo_does_not_write_over_its_subset(cli, tmp_path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    code, _, err = cli("demo", "--local", tmp_path / "summary.json", "--out", tmp_path)
    assert (code, "summary.json is an input." in err) == (1, True)
    assert json.loads((tmp_path / "summary.json").read_text()) == {}
