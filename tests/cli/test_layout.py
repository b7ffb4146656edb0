"""Lines and tables at any width, and in a pipe."""

from __future__ import annotations

import pytest

from frspec_cli.cli.layout import framed, short, stacked, tab_separated, wrapped
from frspec_cli.cli.output import Output

HEADERS = ("method", "speed-up (95% CI)", "acceptance length")
ROWS = [["frspec@4096", "2.31x (2.20 to 2.44)", "3.50"], ["ar", "-", "1.00"]]


def test_lines_are_wrapped_at_words_and_paths_stay_whole() -> None:
    text = "wrote /a/very/long/path/that/is/wider/than/the/terminal.parquet and its-manifest beside it"
    lines = wrapped(text, 30).splitlines()
    assert lines == [
        "wrote",
        "/a/very/long/path/that/is/wider/than/the/terminal.parquet",
        "and its-manifest beside it",
    ]
    assert wrapped("one\n\n- two words", 8) == "one\n\n- two\n  words"


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("2.31x (2.20 to 2.44)", "2.31x ±0.12"),
        ("98.4% (97.9% to 98.8%)", "98.4% ±0.4"),
        ("1,204.5 (1,100.0 to 1,300.0)", "1,204.5 ±100.0"),
        ("3.50", "3.50"),
        ("3.50, 98.4% (97.9% to 98.8%)", "3.50, 98.4% ±0.4"),
    ],
)
def test_an_interval_is_shortened_to_half_its_width(cell, shown) -> None:
    assert short(cell) == shown


@pytest.mark.parametrize(
    ("width", "headers", "interval"), [(80, 1, True), (52, 2, True), (42, 2, False), (41, 0, False)]
)
def test_headers_are_wrapped_then_intervals_shortened_then_rows_stacked(width, headers, interval) -> None:
    table = framed(HEADERS, ROWS, left=1, width=width)
    assert (table is not None) == (headers > 0)
    if table is not None:
        assert (max(str(column.header).count("\n") for column in table.columns) > 0) == (headers > 1)
        assert ("(2.20 to 2.44)" in str(next(iter(table.columns[1].cells)))) == interval


def test_stacked_rows_hold_every_cell() -> None:
    assert stacked(HEADERS, ROWS, 1) == [
        ("frspec@4096", ["  speed-up (95% CI)  2.31x (2.20 to 2.44)", "  acceptance length  3.50"]),
        ("ar", ["  speed-up (95% CI)  -", "  acceptance length  1.00"]),
    ]


def test_a_pipe_gets_all_columns_tab_separated_and_the_title_as_talk(capsys) -> None:
    output = Output()
    output.table("a title", HEADERS, ROWS, brief=("method",))
    output.table("", ("id", "token"), [[1, "a\tb"]])
    shown = capsys.readouterr()
    assert shown.err == "a title\n"
    assert shown.out == tab_separated(HEADERS, ROWS) + "\n\nid\ttoken\n1\ta b\n"


def test_colours_without_a_terminal_only_if_asked_for(capsys, monkeypatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    Output().warn("careful")
    assert "\x1b[33mwarning:" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    Output().warn("careful")
    assert capsys.readouterr().err == "warning: careful\n"
