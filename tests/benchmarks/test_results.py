"""`make results` on a tiny model: every run of the plan, its published JSON, and the page that is computed from it."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import paper, results
from benchmarks.results_page import results_page
from frspec_cli.report.results import Result, read_results
from tests.tiny import run_cli

NAMES = ["acceptance", "context-slots", "coverage", "cycle", "speed", "speed-sampled", "speed-tuned"]


class Making:
    """`make results` of the tiny model, its commands run in this process."""

    def __init__(self, folder, tiny_folder, place):
        self.place, self.ran = place, []
        self.arguments = [
            *("--model", str(tiny_folder), "--suite", str(folder / "prompts.jsonl"), "--work", str(place / "work")),
            *(
                "--out",
                str(place / "data"),
                "--page",
                str(place / "RESULTS.md"),
                "--prompts",
                "2",
                "--new-tokens",
                "12",
            ),
            *(
                "--draft",
                str(folder / "head"),
                "--vocab",
                str(folder / "s.parquet"),
                "--runs",
                "1",
                "--slots",
                "0",
                "8",
            ),
            *("--dtype", "float64", "--device", "cpu"),
        ]

    def run(self, *more):
        """The commands that were run."""
        self.ran = []
        results.main([*self.arguments, *more], self.execute)
        return [each[0] for each in self.ran]

    def execute(self, arguments):
        """The tuned run gets a tree: tune's probe takes seconds, and has tests of its own."""
        self.ran.append(list(arguments))
        tuned = arguments[0] == "bench" and "--tree" not in arguments
        code, out, err = run_cli(*arguments, *(["--tree", "2,2,4"] if tuned else []))
        assert code == 0, err
        return code, out

    def files(self):
        return sorted((self.place / "data").glob("*.json"), key=lambda file: file.stem)


@pytest.fixture(scope="module")
def untimed(folder, tiny_folder, tmp_path_factory):
    made = Making(folder, tiny_folder, tmp_path_factory.mktemp("results"))
    assert made.run("--untimed") == ["collect", "replay", "replay", "coverage"]
    return made


def test_every_run_is_published_with_its_command_and_machine(untimed, tiny_folder):
    files = [file for file in untimed.files() if file.stem.rpartition("-")[2] in ("acceptance", "slots", "coverage")]
    assert [file.name for file in files] == [f"{tiny_folder.name}-{name}.json" for name in NAMES[:3]]
    for file in files:
        text = file.read_text()
        record = json.loads(text)
        assert record["command"].startswith("frspec ")
        assert {"commit", "cpu_flags", "processor", "torch"} <= record["environment"].keys()
        assert "cache" not in record["environment"]
        assert str(untimed.place) not in text
        assert str(tiny_folder.parent) not in text
    acceptance = json.loads(files[0].read_text())["summary"]
    assert [acceptance[name]["k"] for name in ("eagle", "frspec@160", "frspec@80", "frspec@40")] == [320, 160, 80, 40]
    slots = json.loads(files[1].read_text())["summary"]
    assert {"frspec@80", "frspec@80+8"} <= slots.keys()


def test_the_page_holds_the_paper_beside_ours_and_every_command(untimed, tiny_folder):
    page, name = (untimed.place / "RESULTS.md").read_text(), tiny_folder.name
    assert page.startswith("# Results\n")
    assert f"| {name}-acceptance: acceptance kept with V/2 (paper: 8B and 1B) | 97.7% to 98.6% | " in page
    assert f"| {name}-coverage: text covered by a quarter of the vocabulary | 95% | " in page
    for each in ("acceptance", "context-slots", "coverage"):
        assert f"### {name}-{each} (" in page
    assert page.count("```text\nfrspec ") >= 3
    assert "- cpu_flags: " in page
    assert "On the same machine, with the same versions as the one before." in page
    assert "## What did not work, or is not shown" in page


@pytest.mark.slow
def test_what_is_timed_comes_last_and_nothing_is_measured_again(untimed, tiny_folder):
    """Ages of files: what was complete is not written a second time."""
    before = {file.name: file.stat().st_mtime_ns for file in (untimed.place / "work").glob("*.json")}
    commands = ["collect", "replay", "replay", "coverage", "bench", "bench", "bench", "profile"]
    assert untimed.run() == commands
    after = {file.name: file.stat().st_mtime_ns for file in (untimed.place / "work").glob("*.json")}
    assert [after[name] == before[name] for name in ("acceptance.json", "context-slots.json")] == [True, True]
    name = tiny_folder.name
    assert [file.name for file in untimed.files()] == [f"{name}-{each}.json" for each in NAMES]
    page = (untimed.place / "RESULTS.md").read_text()
    assert page.count("```text\nfrspec ") == len(NAMES)
    assert f"| {name}-speed: FR-Spec (k = " in page
    assert f"| {name}-cycle: the LM head's share of EAGLE-2's draft | 49% | " in page
    [speed] = read_results([untimed.place / "data" / f"{name}-speed.json"])
    record = json.loads(json.dumps(speed.record))
    for arm_name, arm in record["summary"].items():
        arm["speedup"] = {**interval(0.9 if arm_name == "eagle" else 1.4), "against": "ar"}
        arm["identical"] = {"equal": 3, "prompts": 4}
    record["null"] = {"arm": "ar", "ratio": interval(1.1), "contains_one": False}
    said = results_page([Result("r", "bench", record)])
    assert "- r: eagle is slower than ar: 0.90 (0.89 to 0.91)." in said
    assert "- r: lookup's ids equal plain decoding's in 3 of 4 texts (float64); frspec verify" in said
    assert "- r: ar against itself is 1.10 (1.09 to 1.11): the machine was not quiet." in said
    assert "frspec@40 is slower" not in said


def interval(value, spread=0.01):
    return {"value": value, "low": value - spread, "high": value + spread}


def test_the_papers_figures_are_those_of_its_tables():
    large, small = paper.MODELS
    assert [round(100 * large.kept(share), 1) for share in (2, 4, 8, 16)] == [97.7, 93.3, 87.4, 80.5]
    assert [round(100 * small.kept(share), 1) for share in (2, 4, 8, 16)] == [98.6, 95.7, 92.5, 88.6]


def test_a_run_that_fails_is_named_and_nothing_else_runs(folder, tiny_folder, tmp_path):
    ran = []

    def execute(arguments):
        ran.append(arguments[0])
        return 1, ""

    arguments = [
        "--model",
        str(tiny_folder),
        "--suite",
        str(folder / "prompts.jsonl"),
        "--work",
        str(tmp_path / "work"),
    ]
    with pytest.raises(SystemExit, match=r"frspec collect ended with exit code 1\. make results goes on from there\."):
        results.main([*arguments, "--draft", "d", "--vocab", str(folder / "s.parquet")], execute)
    assert ran == ["collect"]
    with pytest.raises(
        SystemExit, match=r"error: nothing ships for .*Name a head and a subset with --draft and --vocab."
    ):
        results.main(arguments, execute)


def test_commands_run_in_a_process_of_their_own():
    code, out = results._execute(["env", "--json"])
    assert code == 0
    assert json.loads(out)["python"] == sys.version.split()[0]
