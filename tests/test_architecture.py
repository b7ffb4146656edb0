"""The project's own rules: imports point one way, help is quick, messages name parameters, the README's commands exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT


def test_imports_point_one_way() -> None:
    """The contracts of pyproject.toml: the order of the packages, and no circles between files."""
    script = "import sys\nfrom importlinter.cli import lint_imports\nsys.exit(lint_imports(is_debug_mode=False, no_cache=True))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


def _commands() -> list[str]:
    from frspec_cli.cli.app import COMMANDS

    return sorted(COMMANDS)


@pytest.mark.parametrize("name", _commands())
def test_a_summary_is_the_first_line_of_the_commands_own_help(name: str) -> None:
    from importlib import import_module
    from inspect import getdoc

    from frspec_cli.cli.app import COMMANDS

    text = getdoc(import_module(f"frspec_cli.cli.{name.replace('-', '_')}").command)
    assert text is not None
    assert " ".join(text.split("\n\n")[0].split()) == COMMANDS[name]


@pytest.mark.parametrize("command", ["", *_commands()])
def test_help_loads_nothing_heavy(command: str) -> None:
    """The process that prints help must not have imported torch, transformers, datasets or the schemas."""
    script = (
        "import sys\nfrom frspec_cli.cli.app import main\n"
        f"sys.argv = {['frspec', *([command] if command else []), '--help']!r}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'matplotlib', 'frspec_cli.schema'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Usage" in run.stdout


def test_only_the_command_line_spells_flags() -> None:
    """Outside `cli/` a message names a parameter as `option("k")`: a Python user must not read `--k`.

    Not messages: docstrings, whole commands to type (`frspec ... --k`), and lone flags, which are keys of records.
    """
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / "frspec_cli").rglob("*.py"))
        if not path.is_relative_to(ROOT / "frspec_cli" / "cli")
        for line, text in _texts(ast.parse(path.read_text(encoding="utf-8")))
        if re.search(r"(?<![\w-])--[a-z]", text)
        and not re.search(r"(frspec [a-z-]+ |python -m |torchrun ).*--[a-z]", text)
        and not re.fullmatch(r"--[a-z:=-]+", text)
    ]
    assert offenders == []


def _texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each string below `node` that is not a docstring; the constant parts of an f-string are one text."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.JoinedStr):
            parts = [part.value for part in child.values if isinstance(part, ast.Constant)]
            yield child.lineno, " ".join(parts)
            for inserted in (part for part in child.values if isinstance(part, ast.FormattedValue)):
                yield from _texts(inserted)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.lineno, child.value
        else:
            yield from _texts(child)


def test_wrong_option_is_usage(cli) -> None:
    code, _, err = cli("generate", "--no-such-option")
    assert code == 2
    assert "--no-such-option" in err


def test_version(cli) -> None:
    code, out, _ = cli("--version")
    assert (code, out) == (0, "frspec 0.1.0\n")


def test_public_names_resolve() -> None:
    import frspec_cli

    assert all(getattr(frspec_cli, name) is not None for name in frspec_cli.__all__)


def test_readme_names_real_commands_and_targets() -> None:
    readme = (ROOT / "README.md").read_text()
    used = {line.split()[1] for line in readme.splitlines() if line.startswith("    frspec ")}
    assert used
    assert used <= {*_commands(), "--help"}
    makefile = (ROOT / "Makefile").read_text()
    targets = {line.split()[1] for line in readme.splitlines() if line.strip().startswith("make ")}
    assert {"demo", "test"} <= targets
    assert all(f"\n{target}:" in makefile for target in targets)


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "\n    make test" in (ROOT / "README.md").read_text()
