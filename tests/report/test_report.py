"""A report shows what its results hold, with nothing from the network, for everyone who reads it."""

from __future__ import annotations

import csv
import json
import re
import shlex
from html.parser import HTMLParser

import pytest

from frspec_cli.report import draw
from frspec_cli.report.charts import COLOURS, DASHES, MOST_SERIES, SHAPES, charts
from frspec_cli.report.commands import command_of
from frspec_cli.report.headline import headlines
from frspec_cli.report.page import page
from frspec_cli.report.results import Result, read_results
from frspec_cli.report.tables import tables
from frspec_cli.report.text import as_csv, as_latex, as_markdown
from tests.tiny import run_cli

KINDS = ("bench", "replay", "profile", "coverage")


@pytest.fixture(scope="module")
def files(folder, tiny_folder, tmp_path_factory):
    """One result of each kind, of the tiny model."""
    made = tmp_path_factory.mktemp("results")
    model = ["--model", tiny_folder, "--draft", folder / "head", "--vocab", folder / "s.parquet"]
    model += ["--device", "cpu", "--dtype", "float64", "-n", 16, "--k", 160, "--k", 60]
    suite = ["--suite", folder / "prompts.jsonl", "--limit", 4]
    runs = {
        "bench": ["bench", *suite, *model, "--runs", 2, "--out", made / "bench.json"],
        "replay": ["replay", folder / "prompts.jsonl", *model, "--out", made / "replay.json"],
        "profile": ["profile", *suite, *model, "--out", made / "profile.json"],
        "coverage": [
            "coverage",
            folder / "s.parquet",
            "--on",
            folder / "answers.jsonl",
            "--k",
            60,
            "--k",
            160,
            "--json",
        ],
    }
    for name, arguments in runs.items():
        code, out, err = run_cli(*arguments)
        assert code == 0, err
        if name == "coverage":
            (made / "coverage.json").write_text(out)
    return [made / f"{name}.json" for name in KINDS]


@pytest.fixture(scope="module")
def results(files):
    return read_results(files)


@pytest.fixture(scope="module")
def html(results):
    return page(results, title="Tiny & <quick>")


class Reader(HTMLParser):
    """Collects elements with their attributes, and the text of styles and scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.inside, self.code = [], None, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside in ("style", "script"):
            self.code += data


def test_no_request_leaves_the_page(html):
    reader = Reader(html)
    loading = {
        "src",
        "href",
        "xlink:href",
        "srcset",
        "action",
        "formaction",
        "poster",
        "data",
        "background",
        "ping",
        "style",
    }
    for tag, attributes in reader.elements:
        for name in loading & attributes.keys():
            assert not re.search(r"//|url\(", attributes[name] or ""), (tag, name, attributes[name])
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")
    assert not re.search(
        r"url\(|@import|fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import\(|//[a-z]", reader.code
    )
    policy = next(each["content"] for _, each in reader.elements if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert len(html) < 600_000


def test_every_picture_has_a_caption_two_widths_a_legend_and_is_reached_by_keyboard(html, results):
    made = charts(results)
    assert [chart.title.partition(" (")[0] for chart in made] == [
        "Acceptance length against the size of the vocabulary",
        "Predicted decoding speed against the size of the vocabulary",
        "Where the time of a cycle goes",
        "Why cycles ended",
        "Acceptance by depth",
        "Accepted tokens a cycle",
        "Accepted tokens a cycle",
        "Coverage by source",
        "Coverage by script",
    ]
    reader = Reader(html)
    plots = [each for _, each in reader.elements if each.get("class") == "plot"]
    assert [each["aria-label"] for each in plots] == [chart.title for chart in made]
    assert all(each["tabindex"] == "0" for each in plots)
    assert sum(tag == "svg" and each.get("class") == "marks" for tag, each in reader.elements) == 2 * len(made)
    buttons = [each["data-series"] for tag, each in reader.elements if tag == "button"]
    assert buttons == [name for chart in made if len(chart.series) > 1 for name in chart.series]
    labels = [each.get("aria-label") or "" for _, each in reader.elements]
    for chart in made:
        for name in chart.series:
            assert any(label.startswith(f"{name}: ") for label in labels), (chart.title, name)
    assert "<title>Tiny &amp; &lt;quick&gt;</title>" in html


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_series_are_told_apart_without_colour_and_seen_on_both_grounds(html):
    assert len(set(COLOURS)) == len(set(DASHES)) == len(set(SHAPES)) == MOST_SERIES
    for ground in re.findall(r"--page: (#\w+)", html):
        behind = luminance(ground if len(ground) == 7 else "#" + "".join(2 * each for each in ground[1:]))
        for colour in COLOURS:
            lighter, darker = sorted((luminance(colour), behind), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 3, (colour, ground)


def test_tables_hold_the_results_numbers(results, files):
    made = {(table.result, table.figure): table for table in tables(results)}
    replay, bench = (json.loads(files[number].read_text()) for number in (1, 0))
    first = made["replay", "acceptance, what is kept of it, and why drafts stopped"]
    assert [name for name, _ in first.rows] == ["eagle", "frspec@160", "frspec@60"]
    for name, cells in first.rows:
        arm = replay["summary"][name]
        assert (cells[0].value, cells[1].value) == (arm["k"], arm["acceptance_length"])
        assert cells[2].value == (arm["kept"] and arm["kept"]["value"])
        assert sum(cell.value for cell in cells[3:]) == pytest.approx(1)
    speed = made["bench", "tokens per second, prefill included"]
    assert speed.columns == ("a", "b", "all")
    for name, cells in speed.rows:
        assert cells[-1].value == pytest.approx(bench["summary"][name]["tokens_per_second"], rel=1e-4)
    base = next(arm["speedup"]["against"] for arm in bench["summary"].values())
    for name, cells in made["bench", "speed-up"].rows:
        rates = []
        for method in (name, base):
            own = [each for each in bench["prompts"] if (each["method"], each["category"]) == (method, "a")]
            rates.append(sum(len(each["token_ids"]) for each in own) / sum(each["seconds"]["total"] for each in own))
        assert cells[0].value == pytest.approx(rates[0] / rates[1])
    rows = json.loads(files[3].read_text())["rows"]
    covered = {
        name: [cell.value for cell in cells] for name, cells in made["coverage", "coverage of answers by s"].rows
    }
    assert "no letters (digits, signs)" in covered
    assert covered["all"] == [row["coverage"] for row in rows if row["source"] == row["script"] == "all"]
    assert len(made) == 9


def test_markdown_latex_and_csv_say_the_same(results):
    made = tables(results)
    read = list(csv.DictReader(as_csv(made).splitlines()))
    assert len(read) == sum(cell.value is not None for table in made for _, cells in table.rows for cell in cells)
    kept = next(each for each in read if each["row"] == "frspec@60" and each["column"] == "kept")
    cell = next(cells[2] for name, cells in made[4].rows if name == "frspec@60")
    assert (float(kept["value"]), float(kept["low"]), float(kept["high"])) == (cell.value, cell.low, cell.high)
    markdown, latex = as_markdown(made), as_latex(made)
    assert "| frspec@60 | 60 | " in markdown
    assert markdown.count("\n### ") == latex.count("\\begin{tabular}") == len(made)
    assert cell.text in markdown
    assert cell.text.replace("%", "\\%").replace("–", "--") in latex
    assert not re.search(r"(?<!\\)[%#_]", latex.partition("\n")[2])


def test_commands_are_those_that_can_be_typed(results, cli):
    for result in results:
        words = shlex.split(command_of(result))
        assert words[:2] == ["frspec", result.kind]
        code, _, err = cli(*words[1:], *([] if result.kind == "coverage" else ["--out", "/no/such/folder/x.json"]))
        assert "there is no option" not in err
        assert code in (0, 1), err
    assert "--methods ar,eagle,frspec --k 160 --k 60" in command_of(results[0])


def test_what_repeats_is_no_headline_and_a_machine_that_was_not_quiet_is_said(results):
    bench = results[0]
    record = {**bench.record, "repetition": {"all": 0.6, "categories": {}}}
    [line] = headlines([Result("r", "bench", record)])
    assert "repeat 60% of their 4-grams" in line
    null = {"arm": "ar", "ratio": {"value": 0.9, "low": 0.85, "high": 0.95}, "contains_one": False}
    record = {**bench.record, "repetition": {"all": 0.1, "categories": {}}, "null": null}
    lines = headlines([Result("r", "bench", record)])
    assert "FR-Spec with" in lines[0]
    assert "ar against itself is 0.90× (0.85–0.95)" in lines[1]
    assert any("of the full vocabulary's acceptance length" in line for line in headlines(results))


def test_the_command_writes_what_it_is_asked_for(cli, files, tmp_path):
    html, markdown, latex, numbers = (tmp_path / f"r.{suffix}" for suffix in ("html", "md", "tex", "csv"))
    others = ["--markdown", markdown, "--latex", latex, "--csv", numbers, "--json"]
    code, out, err = cli("report", *files, "--out", html, *others)
    assert code == 0, err
    assert json.loads(out) == {
        "out": str(html), "markdown": str(markdown), "latex": str(latex), "csv": str(numbers), "results": 4, "tables": 9,
    }  # fmt: skip
    assert html.read_text().startswith("<!doctype html>")
    code, _, err = cli("report", *files, "--out", html, *others)
    assert code == 0, err  # each of them may be written again


def test_without_the_drawing_library_there_are_tables_still(cli, files, tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "find_spec", lambda name: None)
    code, _, err = cli("report", *files, "--out", tmp_path / "r.html")
    assert (code, " ".join(err.split())) == (
        1,
        "error: drawing the page needs vl-convert. pip install vl-convert-python, or 'frspec[plot]'.",
    )
    assert cli("report", *files, "--markdown", tmp_path / "r.md")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["bench.json"], 2, "there is nothing to write."),
        (["bench.json", "--markdown", "x", "--csv", "x"], 2, "two of --markdown, --csv name one file."),
        (["no.json", "--csv", "x"], 1, "there is no file no.json."),
        (["other.json", "--csv", "x"], 1, "other.json is not a result that a report shows."),
        (["old.json", "--csv", "x"], 1, "old.json: answers is missing; expected"),
        (["bench.json", "--csv", "other.json"], 1, "--csv other.json"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(cli, files, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench.json").write_bytes(files[0].read_bytes())
    (tmp_path / "other.json").write_text('{"a": 1}')
    old = json.loads(files[1].read_text())
    del old["answers"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    found, out, err = cli("report", *arguments)
    assert (found, out) == (code, "")
    assert message in " ".join(err.split())
