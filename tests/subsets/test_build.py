"""Tables to subsets: forced ids, mixes, sizes, and what is written down."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from frspec_cli.counting.table import FOLDS
from frspec_cli.errors import FrspecError, UsageError, as_flags
from frspec_cli.subsets.build import Builder, load_builder
from frspec_cli.subsets.mix import MIX_UNITS, NamedTable, gather
from frspec_cli.subsets.recipe import Recipe
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.subsets.tokenizer_check import check_subset
from frspec_cli.tokens.tokenizer import load_tokenizer


def entry(table, name: str = "counts") -> NamedTable:
    return NamedTable(name, table, "0" * 64)


def test_forced_are_end_and_template_tokens_but_not_reserved_ones(byte_level, make_table) -> None:
    table = make_table(byte_level, {"web": {65: 50, 66: 40, 67: 30}})
    subset = Builder([entry(table)], byte_level, Recipe()).subset(6)
    ids = {name: byte_level.backend.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>", "<|end|>")}
    assert subset.token_ids.tolist() == [*sorted(ids.values()), 65, 66, 67]
    assert subset.forced == 3
    assert subset.tokens[3] == byte_level.token_bytes(65)
    assert subset.metadata["coverage"] == 1.0


def test_tokens_of_thoughts_and_calls_are_forced_without_a_template_that_has_them(byte_level, tmp_path) -> None:
    copy = shutil.copytree(byte_level.path.parent, tmp_path / "thinking")
    backend = load_tokenizer(str(copy)).backend
    before = load_tokenizer(str(copy)).forced_candidates
    backend.add_tokens(["<think>", "</think>", "[TOOL_CALLS]", "<|other|>"])
    backend.save(str(copy / "tokenizer.json"))
    added = {name: backend.token_to_id(name) for name in ("<think>", "</think>", "[TOOL_CALLS]")}
    assert load_tokenizer(str(copy)).forced_candidates == before | dict.fromkeys(added.values(), "template")


def test_byte_tokens_are_forced_where_there_are_any(sentencepiece, make_table) -> None:
    table = make_table(sentencepiece, {"web": {300: 5}})
    builder = Builder([entry(table)], sentencepiece, Recipe())
    assert list(builder.forced.values()).count("byte") == 256
    only_eos = Builder([entry(table)], sentencepiece, Recipe(forced="eos"))
    assert only_eos.subset(2).token_ids.tolist() == [2, 300]


def test_ids_past_the_models_rows_are_left_out_but_count_as_uncovered(byte_level, make_table) -> None:
    last = byte_level.highest_id
    table = make_table(byte_level, {"web": {65: 75, last: 25}}, model_rows=last)
    subset = Builder([entry(table)], byte_level, Recipe(forced="none")).subset(1)
    assert subset.token_ids.tolist() == [65]
    assert subset.metadata["coverage"] == 0.75
    assert (subset.metadata["vocabulary_rows"], subset.metadata["vocabulary_rows_from"]) == (last, "model")


def test_more_rows_than_tokens_may_be_named(byte_level, make_table) -> None:
    table = make_table(byte_level, {"web": {65: 75}})
    subset = Builder([entry(table)], byte_level, Recipe(forced="none", vocabulary_rows=1000)).subset(1)
    assert (subset.metadata["vocabulary_rows"], subset.metadata["vocabulary_rows_from"]) == (1000, "option")


def test_force_id_keeps_a_token_and_refuses_what_is_none(byte_level, make_table) -> None:
    table = make_table(byte_level, {"web": {65: 75, 66: 3}})
    builder = Builder([entry(table)], byte_level, Recipe(forced="none", force_ids=(200,)))
    assert builder.subset(2).token_ids.tolist() == [200, 65]
    with pytest.raises(FrspecError, match="force_id 99999 is not a token"):
        Builder([entry(table)], byte_level, Recipe(force_ids=(99999,)))


def test_a_mix_gives_each_source_its_share_however_large_it_is(byte_level, make_table) -> None:
    table = make_table(byte_level, {"large": {65: 900_000, 66: 100_000}, "small": {67: 60, 68: 40}, "other": {69: 1}})
    evidence = gather([entry(table)], {"large": 1, "small": 3})
    totals = evidence.by_fold().sum(axis=0)
    assert [round(totals[i] / MIX_UNITS, 3) for i in (65, 66, 67, 68, 69)] == [0.225, 0.025, 0.45, 0.3, 0]
    assert evidence.left_out == ("other",)


def test_a_light_source_orders_only_the_tail(byte_level, make_table) -> None:
    answers = make_table(byte_level, {"answers": {65: 500, 66: 300, 67: 200}})
    corpus = make_table(byte_level, {"web": {70: 700_000, 67: 200_000, 71: 100_000}})
    builder = Builder(
        [entry(answers, "answers"), entry(corpus, "corpus")],
        byte_level,
        Recipe(weights={"answers": 0.999, "corpus": 0.001}, forced="none"),
    )
    assert builder.subset(5).token_ids.tolist() == [65, 66, 67, 70, 71]


def test_names_in_a_mix_must_be_known_plain_and_named_once(byte_level, make_table) -> None:
    one = entry(make_table(byte_level, {"web": {65: 5}, "code": {66: 5}}), "one")
    two = entry(make_table(byte_level, {"web": {65: 7}, "one": {66: 5}}), "two")
    both = gather([one, two], {"web": 1}).by_fold()
    assert both.sum(axis=0)[65] == pytest.approx(MIX_UNITS)
    assert gather([one, two], {"two:web": 1, "one:code": 1}).left_out == ("one:web", "two:one")
    for weights, words in (
        ({"books": 1}, "neither a table nor a source; available: code, one, two, web"),
        ({"one": 1}, "the name of a table and of a source"),
        ({"web": 1, "one:web": 1}, "names the source one:web twice"),
    ):
        with pytest.raises(FrspecError, match=words):
            gather([one, two], weights)


def test_tables_of_two_tokenizers_do_not_mix(byte_level, sentencepiece, make_table) -> None:
    one, two = make_table(byte_level, {"web": {65: 5}}), make_table(sentencepiece, {"web": {65: 5}})
    with pytest.raises(FrspecError, match="different tokenizers"):
        gather([entry(one, "one"), entry(two, "two")])
    with pytest.raises(FrspecError, match="another tokenizer"):
        Builder([entry(one)], sentencepiece, Recipe())


def test_tables_of_one_vocabulary_that_is_split_differently_do_not_mix(byte_level, other_rules, make_table) -> None:
    one, two = (make_table(tokenizer, {"web": {65: 5}}) for tokenizer in (byte_level, other_rules))
    assert one.fingerprint == two.fingerprint
    with pytest.raises(
        FrspecError, match=r"one and two were counted .* split text differently: .* differ in pre_tokenizer"
    ):
        gather([entry(one, "one"), entry(two, "two")])
    with pytest.raises(FrspecError, match=r"one was counted .* splits text differently: .* differ in pre_tokenizer\.$"):
        Builder([entry(one, "one")], other_rules, Recipe())
    old = make_table(other_rules, {"web": {65: 5}})
    del old.metadata["tokenizer"]["split_rules"]
    warnings: list[str] = []
    Builder([entry(old)], byte_level, Recipe(), warn=warnings.append)  # an earlier version's table is still read
    assert warnings == []


def test_a_subset_travels_where_its_bytes_agree(byte_level, other_rules, make_table) -> None:
    subset = Builder([entry(make_table(byte_level, {"web": {65: 5}}))], byte_level, Recipe(forced="none")).subset(1)
    assert subset.metadata["tokenizer"]["split_rules"] == byte_level.definition.split_rules
    warnings: list[str] = []
    check_subset(subset, byte_level, name="s", warn=warnings.append)
    assert warnings == []
    check_subset(subset, other_rules, name="s", warn=warnings.append)
    assert len(warnings) == 1
    assert "ranked with another tokenizer" in warnings[0]
    assert "(in pre_tokenizer)" in warnings[0]


def test_held_out_coverage_ranks_by_the_other_nine_folds(byte_level, make_table) -> None:
    counts = np.zeros((FOLDS, byte_level.highest_id + 1), dtype=np.int64)
    counts[:, 65] = 10
    counts[np.arange(FOLDS), 100 + np.arange(FOLDS)] = 10  # a token of its own in every fold: no other fold knows it
    builder = Builder([entry(make_table(byte_level, {"web": counts}))], byte_level, Recipe(forced="none"))
    assert builder.subset(11).metadata["coverage"] == 1.0
    held_out = builder.held_out(10)
    assert held_out is not None
    assert held_out.value == 0.5


def test_equal_inputs_give_equal_bytes_and_reading_gives_back_what_was_written(
    byte_level, make_table, tmp_path
) -> None:
    table = make_table(byte_level, {"web": {65: 75, 66: 3}, "code": {300: 8}})
    for name in ("a", "b"):
        Builder([entry(table)], byte_level, Recipe()).subset(5).write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read = VocabularySubset.read(tmp_path / "a")
    assert Recipe.from_json(read.metadata["origin"]["recipe"]) == Recipe()
    assert read.token_ids.tolist()[-2:] == [65, 300]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"forced": "some"}, "forced some is not one of all, eos, none"),
        ({"weights": {"web": 0}}, "mix web=0: the weight must be above 0"),
        ({"weights": {"web": float("inf")}}, "the weight must be above 0"),
        ({"budgets": {"cjk": 0}}, "script_budget cjk=0: the number of tokens must be a whole number above 0"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Recipe(**options)


def test_a_builder_finds_the_recorded_tokenizer_or_says_what_to_do(byte_level, make_table, tmp_path) -> None:
    table = make_table(byte_level, {"web": {65: 75, 66: 3}})
    table.write(tmp_path / "counts.parquet")
    builder = load_builder([tmp_path / "counts.parquet"], Recipe(forced="none"))
    assert builder.subset(2).token_ids.tolist() == [65, 66]
    for target in (0.0, 1.5):
        with pytest.raises(UsageError, match="must be above 0 and at most 1"):
            builder.smallest_covering(target)
    table.metadata["tokenizer"]["reference"] = str(tmp_path / "gone")
    table.write(tmp_path / "counts.parquet")
    with pytest.raises(FrspecError, match=r"the tokenizer that counted counts, .*gone, cannot be loaded") as caught:
        load_builder([tmp_path / "counts.parquet"], Recipe())
    assert "--tokenizer" in as_flags(caught.value.hint)
