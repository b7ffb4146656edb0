"""The Python API: every example in a docstring runs, names are lazy and typed, what is complete is read."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import frspec_cli
from frspec_cli import CollectOptions, Recipe
from frspec_cli.errors import FrspecError, UsageError
from tests.conftest import ROOT
from tests.fixtures.tiny_bench import TEXTS
from tests.tiny import TEXT

FUNCTIONS = [
    "count_freq", "build_vocab", "coverage", "export_vocab", "import_vocab", "collect", "train_draft", "replay_answers",
    "diagnose_head", "tune", "verify", "generate",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples name: a model, a little text, prompts, a head for the model, and what the other functions made."""
    here = tmp_path_factory.mktemp("api")
    (here / "model").symlink_to(tiny_folder)
    (here / "text").mkdir()
    for number, text in enumerate(TEXT[:2]):
        (here / "text" / f"{number}.txt").write_text(text)
    (here / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS))
    shutil.copytree(folder / "head", here / "head")
    model = here / "model"
    frspec_cli.count_freq(here / "text", tokenizer=model, out=here / "counts.parquet")
    frspec_cli.build_vocab(here / "counts.parquet", k=300, recipe=Recipe(pad=True), out=here / "subset.parquet")
    frspec_cli.export_vocab(here / "subset.parquet", here / "tokens.pt", to="fr-spec")
    shutil.copy(folder / "answers.jsonl", here / "answers.jsonl")
    return here


@pytest.fixture
def copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, which the test may change; the working folder."""
    shutil.copytree(folder, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_in_a_docstring_runs(name: str, copy: Path) -> None:
    for made in {"count_freq": ["counts.parquet"], "collect": ["answers.jsonl"]}.get(name, []):
        (copy / made).unlink()
    if name == "train_draft":
        shutil.rmtree(copy / "head")
    function = getattr(frspec_cli, name)
    names = {each: getattr(frspec_cli, each) for each in frspec_cli.__all__}
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(function), names, name, None, None)
    assert test.examples
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_it_does_and_is_typed(name: str) -> None:
    function = getattr(frspec_cli, name)
    assert function.__doc__
    hints = inspect.signature(function)
    assert hints.return_annotation is not inspect.Signature.empty
    assert all(each.annotation is not inspect.Parameter.empty for each in hints.parameters.values())


def test_type_checkers_see_the_names_that_are_imported_lazily() -> None:
    tree = ast.parse((ROOT / "frspec_cli" / "__init__.pyi").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {name.asname: node.module for node in imports for name in node.names if name.asname == name.name}
    assert seen == frspec_cli._PUBLIC
    assert (ROOT / "frspec_cli" / "py.typed").is_file()


def test_importing_the_package_and_its_options_loads_nothing_heavy() -> None:
    script = (
        "import sys, frspec_cli\n"
        "frspec_cli.count_freq, frspec_cli.train_draft, frspec_cli.VerifyOptions, frspec_cli.TuneOptions\n"
        "assert not {'torch', 'transformers', 'datasets', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr


def test_what_is_complete_is_read_and_anything_else_is_refused(copy: Path) -> None:
    table = frspec_cli.count_freq("text", tokenizer="model", out="counts.parquet")
    assert table.metadata["tokens"] == 75
    with pytest.raises(FrspecError, match=r"counts\.parquet exists and was not made by this command"):
        frspec_cli.count_freq("text/0.txt", tokenizer="model", out="counts.parquet")
    options = CollectOptions(max_new_tokens=5)
    first = frspec_cli.collect("prompts.jsonl", "a.jsonl", model="model", options=options, dtype="float64")
    written = (copy / "a.jsonl").stat().st_mtime_ns
    again = frspec_cli.collect("prompts.jsonl", "a.jsonl", model="model", options=options, dtype="float64")
    assert [answer.ids.tolist() for answer in again] == [answer.ids.tolist() for answer in first]
    assert (copy / "a.jsonl").stat().st_mtime_ns == written
    with pytest.raises(FrspecError, match="was not made by this command"):
        frspec_cli.collect("prompts.jsonl", "a.jsonl", model="model", dtype="float64")
    with pytest.raises(FrspecError, match="is an input"):
        frspec_cli.collect("prompts.jsonl", "prompts.jsonl", model="model")


def test_warnings_are_python_warnings(copy: Path) -> None:
    (copy / "few.txt").write_text("5\n6\n7\n")
    with pytest.warns(UserWarning, match="it lacks"):
        frspec_cli.import_vocab("few.txt", tokenizer="model")


def test_a_wrong_call_names_parameters_and_not_flags(copy: Path) -> None:
    with pytest.raises(UsageError, match="or costs"):
        frspec_cli.tune()
    with pytest.raises(FrspecError, match="name a frequency table, or with model a model"):
        frspec_cli.build_vocab(k=100)
