from __future__ import annotations

import json

import pytest

from benchmarks.learning_curve import main


@pytest.fixture
def run(tmp_path):
    def write(name, *records):
        folder = tmp_path / f"{name}.training"
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return folder

    return write


def test_tokens_add_up_over_a_run_and_the_one_that_started_from_it(run, tmp_path, capsys):
    first = run("first", {"step": 1, "tokens": 100}, {"step": 2, "tokens": 50}, {"step": 2, "acceptance_length": 1.5})
    second = run("second", {"step": 1, "tokens": 70}, {"step": 1, "acceptance_length": 1.8})
    assert main([f"model={first},{second}", str(second), "--out", str(tmp_path / "curve.png")]) == 0
    assert capsys.readouterr().out.splitlines() == ["model\t150\t1.500", "model\t220\t1.800", "second\t70\t1.800"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("records", "message"), [(None, "holds no metrics.jsonl"), ([{"step": 1, "tokens": 9}], "holds no validation yet")]
)
def test_a_folder_without_a_validation_is_an_error(run, tmp_path, capsys, records, message):
    folder = tmp_path if records is None else run("young", *records)
    assert main([str(folder)]) == 1
    assert message in capsys.readouterr().err


def test_a_name_that_is_not_a_picture_is_refused_first(run, tmp_path, capsys):
    assert main([str(run("a")), "--out", str(tmp_path / "curve.txt")]) == 1
    assert "its name must end in .png, .pdf or .svg" in capsys.readouterr().err
