"""Every link inside README, docs and cards leads to a file, and to a heading where it names one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.commands import PAGES


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub and mkdocs name them in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            wrong.append(f"{page.relative_to(ROOT)}: {link} leads nowhere")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            wrong.append(f"{page.relative_to(ROOT)}: {link}: no such heading")
    return wrong


def test_links_lead_somewhere() -> None:
    assert len(PAGES) > 15
    assert [each for page in PAGES for each in broken(page)] == []


def test_a_broken_link_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "formats.md"
    text = "# A page\n[x](nowhere.md) [y](#a-page) [z](#other) [log](log.md)"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert broken(page) == ["docs/formats.md: nowhere.md leads nowhere", "docs/formats.md: #other: no such heading"]
