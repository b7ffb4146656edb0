"""The commands that README, docs and cards show: lines of code blocks that begin with frspec, make, torchrun or python."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "data/**/*.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts and "out" not in path.parts
)
_STARTS = re.compile(
    r"(?:\$ )?((?:[A-Z_]+=\S+ )*(?:frspec (?:--|[a-z])|(?:make|torchrun|python3?|srun|sbatch) ).*|export .*)"
)


@dataclass(frozen=True)
class Line:
    """One command. page: where it stands. number: its line there. text: with continued lines joined, without the prompt."""

    page: Path
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}: {self.text}"

    def words(self) -> list[str]:
        """As a shell splits it, up to a pipe or a redirection."""
        words: list[str] = []
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        for word in lexer:
            if set(word) <= set("|&;<>"):
                break
            words.append(word)
        return words

    def arguments(self) -> list[str] | None:
        """What frspec is given; None if the line does not run it."""
        words = self.words()
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words[:1] == ["frspec"]:
            return words[1:]
        if "frspec_cli" in words and words[words.index("frspec_cli") - 1] == "-m":
            return words[words.index("frspec_cli") + 1 :]
        return words[words.index("frspec") + 1 :] if words[:1] == ["srun"] and "frspec" in words else None


def lines_of(page: Path) -> list[Line]:
    """The commands of a page, in order."""
    found: list[Line] = []
    fence, pending, began = "", "", 0
    for number, raw in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        stripped = raw.strip()
        if stripped.startswith("```"):
            fence = "" if fence else stripped.removeprefix("```") or "text"
            continue
        if fence == "python" or not (fence or raw.startswith("    ")):
            continue
        if not pending and not (match := _STARTS.fullmatch(stripped)):
            continue
        began, text = (began, pending + stripped) if pending else (number, match[1])
        if text.endswith("\\"):
            pending = text.removesuffix("\\")
            continue
        found.append(Line(page, began, text))
        pending = ""
    return found


def all_lines() -> list[Line]:
    """The commands of all pages."""
    return [line for page in PAGES for line in lines_of(page)]


def path_of(name: str, page: Path = ROOT / "README.md") -> list[Line]:
    """The commands after `<!-- path: NAME -->`, up to the next heading or path."""
    text = page.read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(text, start=1) if line == f"<!-- path: {name} -->")
    last = next(
        (n for n, line in enumerate(text, start=1) if n > first and (line.startswith(("#", "<!-- path")))), len(text)
    )
    return [line for line in lines_of(page) if first < line.number < last]


def python_blocks(page: Path) -> list[str]:
    """The blocks of Python of a page, in order."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
