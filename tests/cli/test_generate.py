"""`frspec generate` as a user meets it: text on stdout, talk on stderr, clear sentences when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def model(tiny_folder: Path) -> list[str]:
    return ["--model", str(tiny_folder), "--dtype", "float32", "--device", "cpu"]


def test_text_goes_to_stdout_and_statistics_to_stderr(cli, model) -> None:
    code, out, err = cli("generate", "the fox", *model, "-n", 12, "--ignore-eos")
    assert code == 0
    assert out.endswith("\n")
    assert "12 tokens in" in err
    assert "tokens/s | acceptance length 1.00 | method ar" in err
    assert "no draft head is available" in err


def test_json_is_one_object_and_nothing_else(cli, model) -> None:
    code, out, err = cli(
        "generate", "the fox", *model, "-n", 9, "--ignore-eos", "--json", "--method", "lookup", "--quiet"
    )
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert out.count("\n") == 1
    assert len(record["token_ids"]) == record["new_tokens"] == 9
    assert record["method"] == "lookup"
    assert record["acceptance_length"] >= 1
    assert set(record["seconds"]) == {"total", "prefill", "draft", "verify", "other"}
    assert record["tokens_per_second"] == pytest.approx(9 / record["seconds"]["total"], rel=0.01)
    assert set(record) == {
        "id", "finish", "text", "token_ids", "prompt_tokens", "new_tokens", "cycles", "acceptance_length", "seconds",
        "tokens_per_second", "decode_tokens_per_second", "method", "k", "depth", "beam", "nodes", "model", "draft",
        "dtype", "device", "compiled", "seed", "draft_lm_head", "choice",
    }  # fmt: skip


def test_a_text_says_whether_it_came_to_its_end(cli, model, tmp_path) -> None:
    """This model's texts go on for more than eight tokens, and ignoring their end is what was asked for."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "p7", "category": "b", "prompt": "the fox"}\n{"prompt": "a hen"}\n')
    _, out, _ = cli("generate", "--prompts", prompts, *model, "-n", 8, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [(each["id"], each.get("category"), each["finish"]) for each in records] == [
        ("p7", "b", "length"),
        ("2", None, "length"),
    ]
    assert cli("generate", "the fox", *model, "-n", 8)[2].rstrip().endswith("| stopped at --max-new-tokens 8")
    assert "stopped at" not in cli("generate", "the fox", *model, "-n", 8, "--ignore-eos")[2]


def test_streamed_text_is_the_json_text(cli, model) -> None:
    arguments = ["generate", "the fox", *model, "-n", 30, "--ignore-eos", "--method", "ar", "--quiet"]
    _, streamed, _ = cli(*arguments)
    _, recorded, _ = cli(*arguments, "--json")
    assert streamed == json.loads(recorded)["text"] + "\n"


def test_options_that_the_default_method_would_ignore_are_refused(cli, model) -> None:
    """The model has no draft head, so decoding is plain, and --k or --context-slots would do nothing."""
    for option in ("--k", "--context-slots"):
        code, out, err = cli("generate", "the fox", *model, option, 8)
        assert (code, out) == (2, "")
        assert f"{option} has no effect on ar:" in " ".join(err.split())


def test_from_python_one_call_gives_the_text(cli, model, tiny_folder) -> None:
    import frspec_cli

    _, out, _ = cli("generate", "the fox", *model, "-n", 12, "--ignore-eos", "--stop", "~", "--json", "-q")
    options = frspec_cli.GenerateOptions(max_new_tokens=12, ignore_eos=True, stop=("~",))
    generation = frspec_cli.generate("the fox", model=str(tiny_folder), device="cpu", dtype="float32", options=options)
    record = json.loads(out)
    assert (generation.text, generation.token_ids) == (record["text"], record["token_ids"])
    assert generation.text
    assert set(generation.seconds) == set(record["seconds"])
    with pytest.raises(frspec_cli.FrspecError, match="k has no effect on ar"):
        frspec_cli.generate("the fox", model=str(tiny_folder), device="cpu", k=9)


def test_a_file_of_prompts_gives_a_line_each_in_order(cli, model, tmp_path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "the fox"}\n\n{"question_id": 7, "category": "qa", "turns": ["the hen", "and?"]}\n')
    code, out, _ = cli("generate", "--prompts", file, *model, "-n", 4, "--json", "--quiet")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert len(lines) == 2
    assert lines[0]["prompt_tokens"] > 0


def test_a_stop_string_ends_the_text_and_is_left_out(cli, model) -> None:
    arguments = ["generate", "the fox", *model, "-n", 40, "--ignore-eos", "--quiet"]
    _, whole, _ = cli(*arguments)
    middle = whole.rstrip("\n")
    stop = middle[len(middle) // 2 :][:3]
    _, shown, _ = cli(*arguments, "--stop", stop)
    assert shown == whole[: whole.index(stop)] + "\n"
    _, recorded, _ = cli(*arguments, "--stop", stop, "--json")
    assert json.loads(recorded)["text"] + "\n" == shown


def test_standard_input_is_a_prompt(cli, model, monkeypatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("the fox"))
    _, from_stdin, _ = cli("generate", "-", *model, "-n", 5, "--json", "-q")
    _, from_argument, _ = cli("generate", "the fox", *model, "-n", 5, "--json", "-q")
    assert json.loads(from_stdin)["token_ids"] == json.loads(from_argument)["token_ids"]


def test_a_seed_fixes_the_text_whatever_the_method(cli, model) -> None:
    texts = [
        json.loads(cli("generate", "the fox", *model, "-n", 20, "--json", "-q", "--temperature", 1, *more)[1])[
            "token_ids"
        ]
        for more in (["--seed", 4], ["--seed", 4, "--method", "lookup"], ["--seed", 5])
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["generate"], 2, "give a prompt or --prompts"),
        (["generate", "x", "--method", "magic"], 2, "--method magic is not one of ar, eagle, frspec, lookup."),
        (["generate", "x", "--nodes", "1"], 2, "nodes"),
        (["generate", "x", "--depth", "100000"], 2, "--depth 100000 is not between 1 and 64."),
        (["generate", "x", "--beam", "5000"], 2, "--beam 5000 is not between 1 and 128."),
        (["generate", "x", "--method", "ar", "--draft", "d"], 2, "--draft has no effect on ar:"),
        (["generate", "x", "--method", "ar", "--vocab", "v"], 2, "--vocab has no effect on ar:"),
        (["generate", "x", "--method", "lookup", "--k", "9"], 2, "--k has no effect on lookup:"),
        (["generate", "x", "--method", "eagle", "--k", "9"], 2, "--k has no effect on eagle:"),
        (["generate", "x", "--method", "eagle", "--vocab", "v"], 2, "--vocab has no effect on eagle:"),
        (["generate", "x", "--method", "eagle", "--context-slots", "4"], 2, "--context-slots has no effect on eagle:"),
        (["generate", "x", "--temperature", "-1"], 2, "--temperature -1.0 is negative"),
        (["generate", "x", "--temperature", "1e-38"], 2, "--temperature 1e-38 is neither 0 (greedy) nor between"),
        (["generate", "x", "--temperature", "nan"], 2, "--temperature nan is neither 0"),
        (["generate", "x", "--seed", str(2**63)], 2, "from 0 to 9,223,372,036,854,775,807"),
        (["collect", "x.jsonl", "-o", "y.jsonl", "--seed", str(2**64)], 2, "from 0 to 9,223,372,036,854,775,807"),
        (["train-draft", "x.jsonl", "-o", "y", "--seed", str(2**64)], 2, "from 0 to 9,223,372,036,854,775,807"),
        (["generate", "x", "--top-p", "0.5"], 2, "have no effect at --temperature 0"),
        (["generate", "--prompts", "no-such-file.jsonl"], 1, "there is no file no-such-file.jsonl."),
        (["generate", "x", "--model", "smolm2-135m"], 1, "there is no model named 'smolm2-135m'"),
    ],
)
def test_wrong_input_is_one_sentence(cli, arguments: list[str], code: int, said: str) -> None:
    found, out, err = cli(*arguments)
    assert (found, out) == (code, "")
    assert said in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("more", "expected", "said"),
    [
        (["--method", "eagle"], 1, "--method eagle needs a draft head."),
        (["--method", "frspec"], 1, "--method frspec needs a draft head."),
        (["--draft", "no-such-head"], 1, "there is no draft head at no-such-head"),
        (["--vocab", "no-such.parquet"], 1, "there is no file no-such.parquet."),
        (["--dtype", "float8"], 2, "--dtype float8 is not one of"),
        (["-n", "4000"], 1, "do not fit into the model's context of 512"),
    ],
)
def test_what_the_model_cannot_do_is_one_sentence(cli, model, more: list[str], expected: int, said: str) -> None:
    code, out, err = cli("generate", "the fox", *model, *more)
    assert (code, out) == (expected, "")
    assert said in " ".join(err.split())


def test_a_lone_surrogate_in_a_prompt_is_a_usage_error(cli, model, tmp_path, monkeypatch) -> None:
    import io

    code, out, err = cli("generate", "the \udcff fox", *model)
    assert (code, out) == (2, "")
    assert "the prompt is not valid Unicode: character 5 is a lone surrogate (U+DCFF)." in " ".join(err.split())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the \xff fox"), encoding="utf-8"))
    code, out, err = cli("generate", "-", *model)
    assert (code, out) == (2, "")
    assert "standard input is not UTF-8: invalid start byte at byte 4." in " ".join(err.split())
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "the fox"}\n{"prompt": "\\ud800"}\n')
    code, out, err = cli("generate", "--prompts", file, *model)
    assert (code, out) == (1, "")
    assert "line 2 is not valid JSON" in " ".join(err.split())


def test_a_line_that_is_no_prompt_is_named(cli, model, tmp_path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "the fox"}\n{"title": "?"}\n')
    code, _, err = cli("generate", "--prompts", file, *model)
    assert code == 1
    assert "line 2 is not a prompt" in " ".join(err.split())
