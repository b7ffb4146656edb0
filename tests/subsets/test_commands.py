"""The commands as a user meets them: what they write, what they say, and with which exit code they end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from frspec_cli.counting.table import FOLDS
from frspec_cli.subsets.subset import VocabularySubset


@pytest.fixture
def counts(byte_level, make_table, tmp_path):
    """A table of 200 tokens in two sources, with Han ones only in the second."""
    rng = np.random.default_rng(1)
    rows = byte_level.highest_id + 1
    web = np.zeros((FOLDS, rows), dtype=np.int64)
    web[:, 40:240] = rng.poisson(500 / np.arange(1, 201), (FOLDS, 200))
    zh = np.zeros((FOLDS, rows), dtype=np.int64)
    han = [i for i in byte_level.vocabulary if "中" in byte_level.token_bytes(i).decode(errors="ignore")]
    zh[:, han] = 2
    zh[:, 200:300] += rng.poisson(3, (FOLDS, 100))
    path = tmp_path / "counts.parquet"
    make_table(byte_level, {"web": web, "zh": zh}).write(path)
    return path


def test_build_cover_export_import_inspect(counts, byte_level, cli, tmp_path) -> None:
    code, out, _ = cli("build-vocab", counts, "--k", 50, "--k", 100, "--out", tmp_path / "subsets", "--json")
    assert code == 0
    built = json.loads(out)["subsets"]
    assert [(each["k"], each["forced"], each["padded"]) for each in built] == [(50, 3, 0), (100, 3, 0)]
    assert built[1]["out"] == str(tmp_path / "subsets" / "subset-100.parquet")
    small, large = (VocabularySubset.read(each["out"]) for each in built)
    assert large.token_ids[:50].tolist() == small.token_ids.tolist()
    assert small.metadata["sha256"] == built[0]["sha256"]

    code, out, _ = cli("coverage", built[1]["out"], "--on", counts, "--k", 50, "--k", 100, "--json")
    covered = json.loads(out)
    assert code == 0
    assert {row["how"] for row in covered["rows"]} == {"held out by fold"}
    whole = {row["k"]: row for row in covered["rows"] if row["source"] == row["script"] == "all"}
    assert whole[50]["coverage"] < whole[100]["coverage"] <= built[1]["coverage"]
    assert whole[50]["low"] <= whole[50]["coverage"] <= whole[50]["high"]
    assert {"subset", "k", "source", "script", "tokens", "coverage", "low", "high"} <= covered["rows"][0].keys()
    assert {row["source"] for row in covered["rows"]} == {"all", "web", "zh"}

    code, out, err = cli("export-vocab", built[1]["out"], "--to", "sglang", "--k", 50, "--out", tmp_path / "map.pt")
    assert code == 0
    assert f"--speculative-token-map {tmp_path / 'map.pt'}" in out
    assert f"wrote {tmp_path / 'map.pt'}" in err
    assert "leave SGLang's option speculative-use-rejection-sampling off" in " ".join(err.split())
    assert torch.load(tmp_path / "map.pt", weights_only=True) == small.token_ids.tolist()

    code, out, _ = cli(
        "import-vocab", tmp_path / "map.pt", "--tokenizer", byte_level.path.parent, "--out", tmp_path / "back", "--json"
    )
    assert code == 0
    assert json.loads(out)["sha256"] == small.metadata["sha256"]
    assert VocabularySubset.read(tmp_path / "back").tokens == small.tokens

    for path, kind in (
        (counts, "frequency-table"),
        (built[0]["out"], "vocabulary-subset"),
        (tmp_path / "map.pt", "draft-vocabulary"),
        (tmp_path / "map.pt.manifest.json", "export-manifest"),
        (byte_level.path, "tokenizer"),
    ):
        code, out, _ = cli("inspect", path, "--json")
        assert (code, json.loads(out)["kind"]) == (0, kind)
        code, out, _ = cli("inspect", path)
        assert out.startswith(f"{path}: {kind}\n")


def test_coverage_of_text_and_of_answers_counts_on_the_spot(counts, byte_level, cli, tmp_path) -> None:
    cli("build-vocab", counts, "--k", 100, "--out", tmp_path / "s.parquet")
    (tmp_path / "more.txt").write_text("the cat sat on the mat\n" * 50)
    code, out, _ = cli("coverage", tmp_path / "s.parquet", "--on", tmp_path / "more.txt", "--json")
    row = json.loads(out)["rows"][0]
    ids = byte_level.encode_batch(["the cat sat on the mat\n" * 50])[0]
    subset = VocabularySubset.read(tmp_path / "s.parquet")
    assert (code, row["how"], row["tokens"]) == (0, "other text", len(ids))
    assert row["coverage"] == pytest.approx(np.isin(ids, subset.token_ids).mean())
    answer = {"id": "0", "conversations": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "ab"}]}
    answer |= {"prompt_token_ids": [90, 91, 92], "response_token_ids": [65, 66], "finish": "length"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    code, out, _ = cli("coverage", tmp_path / "s.parquet", "--on", tmp_path / "answers.jsonl", "--json")
    assert (code, json.loads(out)["rows"][0]["tokens"]) == (0, 2)


def test_the_text_that_a_subset_was_chosen_from_is_recognised(byte_level, cli, tmp_path) -> None:
    for name, line in (("a.txt", "the cat sat on the mat\n"), ("b.txt", "def count(tokens): return sum(tokens)\n")):
        (tmp_path / name).write_text(line * 50)
    tokenizer = byte_level.path.parent
    cli("count-freq", tmp_path / "a.txt", "-t", tokenizer, "-o", tmp_path / "a.parquet")
    cli("build-vocab", tmp_path / "a.parquet", "--k", 30, "--forced", "eos", "--pad", "-o", tmp_path / "s.parquet")
    code, out, err = cli("coverage", tmp_path / "s.parquet", "--on", tmp_path / "a.txt", "--json")
    assert (code, json.loads(out)["rows"][0]["how"]) == (0, "in sample")
    said = " ".join(err.split())
    assert "s.parquet was chosen from the text of a itself, so its coverage is optimistic." in said
    code, out, _ = cli("coverage", tmp_path / "s.parquet", "--on", tmp_path / "b.txt", "--json")
    assert (code, json.loads(out)["rows"][0]["how"]) == (0, "other text")
    cli("count-freq", tmp_path / "b.txt", "-t", tokenizer, "-o", tmp_path / "b.parquet")
    cli("merge", tmp_path / "a.parquet", tmp_path / "b.parquet", "-o", tmp_path / "ab.parquet")
    code, _, err = cli("coverage", tmp_path / "s.parquet", "--on", tmp_path / "ab.parquet")
    tokens = [len(byte_level.encode_batch([(tmp_path / name).read_text()])[0]) for name in ("a.txt", "b.txt")]
    assert f"was chosen from {tokens[0] / sum(tokens):.0%} of the text of ab itself" in " ".join(err.split())


def test_a_named_tokenizer_must_be_there(counts, cli, tmp_path) -> None:
    cli("build-vocab", counts, "--k", 100, "--out", tmp_path / "s.parquet")
    code, out, err = cli("coverage", tmp_path / "s.parquet", "--on", counts, "--tokenizer", "nosuch")
    assert (code, out, "there is no model named 'nosuch'" in err) == (1, "", True)


def test_sizes_come_by_commas_or_one_at_a_time(counts, cli, tmp_path) -> None:
    code, out, _ = cli("build-vocab", counts, "--k", "50,60", "--k", 70, "--out", tmp_path / "subsets", "--json")
    assert (code, [each["k"] for each in json.loads(out)["subsets"]]) == (0, [50, 60, 70])
    code, _, err = cli("build-vocab", counts, "--k", "32m", "--out", tmp_path / "x")
    assert (code, err.strip()) == (2, "error: --k 32m is not a whole number above 0.")


def test_the_table_for_people_and_the_picture(counts, cli, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    cli("build-vocab", counts, "--k", 100, "--out", tmp_path / "s.parquet")
    code, out, err = cli(
        "coverage", tmp_path / "s.parquet", "--on", counts, "--k", 50, "--plot", tmp_path / "x.png", "--show", 3
    )
    assert code == 0
    assert "Coverage of s on counts (held out by fold)" in err
    assert "script Latin\t" in out
    assert out.count("rarest tokens included\t") == out.count("most frequent tokens left out\t") == 3
    assert f"s covers {out.splitlines()[1].split(chr(9))[-1]} of counts (held out by fold); wrote" in err
    assert err.rstrip().endswith(f"wrote {tmp_path / 'x.png'}")
    assert (tmp_path / "x.png").stat().st_size > 5000


def test_soft_counts_of_an_older_version_are_refused(byte_level, make_table, cli, tmp_path) -> None:
    make_table(byte_level, {"answers": {65: 6_000_000, 66: 3_000_000}}, kind="soft").write(tmp_path / "soft.parquet")
    make_table(byte_level, {"answers": {65: 6, 66: 3}}).write(tmp_path / "counts.parquet")
    cli("build-vocab", tmp_path / "counts.parquet", "--k", 4, "--out", tmp_path / "s.parquet")
    for command in (
        ("build-vocab", tmp_path / "soft.parquet", "--k", 4, "--out", tmp_path / "x"),
        ("merge", tmp_path / "soft.parquet", tmp_path / "counts.parquet", "--out", tmp_path / "x"),
        ("coverage", tmp_path / "s.parquet", "--on", tmp_path / "soft.parquet"),
        ("inspect", tmp_path / "soft.parquet"),
    ):
        code, _, err = cli(*command)
        assert (code, "holds soft counts, which this version of frspec no longer reads" in err) == (1, True)


def test_a_budget_is_shown_against_the_same_rows_by_frequency(counts, cli, tmp_path) -> None:
    arguments = ("build-vocab", counts, "--k", 60, "--script-budget", "cjk=5", "--out", tmp_path / "s.parquet")
    code, out, _ = cli(*arguments, "--json")
    (effect,) = json.loads(out)["subsets"][0]["budgets"]
    assert code == 0
    assert effect["script"] == "cjk"
    assert effect["coverage"] > effect["by_frequency"]
    code, out, _ = cli(*arguments)
    assert "by frequency alone" in out
    subset = VocabularySubset.read(tmp_path / "s.parquet")
    assert subset.k == 60
    assert (subset.reasons == 1).sum() > 0
    code, _, err = cli("export-vocab", tmp_path / "s.parquet", "--k", 50, "--to", "txt", "--out", tmp_path / "x")
    assert code == 1
    assert "--script-budget" in err


def test_formats_at_once(counts, cli, tmp_path) -> None:
    code, _, _ = cli(
        *("build-vocab", counts, "--k", 50, "--out", tmp_path / "s.parquet", "--vocab-rows", 512),
        *("--format", "sglang", "--format", "speculators"),
    )
    assert code == 0
    assert np.load(tmp_path / "s.speculators" / "t2d.npy").shape == (512,)
    assert len(torch.load(tmp_path / "s.sglang.pt", weights_only=True)) == 50


def test_coverage_in_place_of_k(counts, cli, tmp_path) -> None:
    code, out, _ = cli("build-vocab", counts, "--coverage", 0.8, "--out", tmp_path / "s.parquet", "--json")
    built = json.loads(out)["subsets"][0]
    assert (code, built["coverage"] >= 0.8) == (0, True)
    code, out, _ = cli("build-vocab", counts, "--k", built["k"] - 1, "--out", tmp_path / "t.parquet", "--json")
    assert json.loads(out)["subsets"][0]["coverage"] < 0.8


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--k", 99999], 1, "k 99,999 is larger than the vocabulary, which has"),
        (["--k", 400], 1, "asks for more tokens than were seen"),
        (["--k", 2], 1, "smaller than the 3 tokens that are forced in"),
        (["--k", 0], 2, "--k 0 is not a whole number above 0"),
        ([], 2, "give either --k or --coverage"),
        (["--k", 5, "--coverage", 0.9], 2, "give either --k or --coverage"),
        (["--coverage", 98], 2, "must be above 0 and at most 1"),
        (["--k", 50, "--mix", "web"], 2, "must be NAME=NUMBER"),
        (["--k", 50, "--mix", "web=0"], 2, "must be above 0"),
        (["--k", 50, "--mix", "books=1"], 1, "neither a table nor a source"),
        (["--k", 50, "--script-budget", "cjk=x"], 2, "must be a whole number"),
        (["--k", 50, "--script-budget", "Klingon=5"], 2, "no script named"),
        (["--k", 50, "--force-id", 99999], 1, "--force-id 99999 is not a token"),
        (["--k", 50, "--format", "onnx"], 2, "--to onnx is not one of"),
        (["--k", 50, "--tokenizer", "/nowhere"], 1, "no model named"),
        (["--k", 50, "--nonsense"], 2, "there is no option --nonsense"),
    ],
)
def test_wrong_input_is_one_sentence_and_writes_nothing(arguments, code, words, counts, cli, tmp_path) -> None:
    got, out, err = cli("build-vocab", counts, "--out", tmp_path / "out" / "s.parquet", *arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over_what_is_read(counts, cli) -> None:
    before = counts.read_bytes()
    code, _, err = cli("build-vocab", counts, "--k", 50, "--out", counts)
    assert (code, "is an input." in err) == (1, True)
    assert counts.read_bytes() == before


def test_a_missing_and_a_broken_table(cli, tmp_path) -> None:
    code, _, err = cli("build-vocab", tmp_path / "none.parquet", "--k", 5, "--out", tmp_path / "s")
    assert (code, "there is no file" in err) == (1, True)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    code, _, err = cli("build-vocab", tmp_path / "broken.parquet", "--k", 5, "--out", tmp_path / "s")
    assert (code, "cannot be read as parquet" in err) == (1, True)


def test_a_subset_of_another_tokenizer(counts, sentencepiece, make_table, cli, tmp_path) -> None:
    cli("build-vocab", counts, "--k", 50, "--out", tmp_path / "s.parquet")
    make_table(sentencepiece, {"web": {300: 5}}).write(tmp_path / "other.parquet")
    code, _, err = cli("coverage", tmp_path / "s.parquet", "--on", tmp_path / "other.parquet")
    assert code == 1
    assert "was made for another tokenizer" in err


def test_vllm_is_refused_plainly(counts, cli, tmp_path) -> None:
    cli("build-vocab", counts, "--k", 50, "--out", tmp_path / "s.parquet")
    code, _, err = cli("export-vocab", tmp_path / "s.parquet", "--to", "vllm", "--out", tmp_path / "x")
    assert code == 2
    assert "no released version of vLLM takes a draft vocabulary for EAGLE-1/2 heads" in err


def test_warnings_of_an_import_reach_stderr_and_json(byte_level, cli, tmp_path) -> None:
    bos, eos = (byte_level.backend.token_to_id(name) for name in ("<|begin|>", "<|end|>"))
    torch.save([65, bos, 66, bos, eos], tmp_path / "freq_4.pt")
    arguments = (
        "import-vocab",
        tmp_path / "freq_4.pt",
        "--tokenizer",
        byte_level.path,
        "--out",
        tmp_path / "s.parquet",
    )
    code, out, err = cli(*arguments, "--json", "--quiet")
    assert code == 0
    value = json.loads(out)
    assert (value["k"], value["format"]) == (4, "fr-spec")
    assert "end-of-sequence block" in value["warnings"][0]
    assert "warning: " in err
