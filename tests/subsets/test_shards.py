"""Sizes for engines: a multiple of rows, and equal numbers of rows from equal slices of the vocabulary."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frspec_cli.counting.table import FOLDS
from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.subsets import choose
from frspec_cli.subsets.build import Builder
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.recipe import Recipe
from frspec_cli.subsets.subset import VocabularySubset


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=24, max_size=24),
    each=st.integers(1, 6),
    shards=st.sampled_from([2, 3, 4]),
)
def test_every_slice_gives_its_most_frequent_tokens(counts: list[int], each: int, shards: int) -> None:
    ranking = choose.rank(np.array(counts), forced=[0], allowed=np.ones(24, dtype=bool))
    choice = choose.choose(ranking, each * shards, pad=True, shards=shards)
    ids, width = choice.token_ids.tolist(), 24 // shards
    expected = []
    for part in range(shards):
        own = sorted(range(part * width, (part + 1) * width), key=lambda i: (i != 0, -counts[i], i))
        expected += own[:each]
    assert sorted(ids) == sorted(expected)
    assert ids == [i for i in ranking.token_ids.tolist() if i in expected]  # by rank


def test_what_the_slices_cannot_give_is_refused() -> None:
    counts = np.array([5, 4, 3, 2, 1, 0, 0, 0])
    ranking = choose.rank(counts, forced=[0, 1], allowed=np.arange(8) < 7)
    for k, shards, words in (
        (4, 3, "cannot be cut into 3 equal slices"),
        (5, 2, "cannot be divided among 2 slices"),
        (2, 2, r"gives 1 rows to slice 1 of 2 \(ids 0 to 3\), where forced tokens and budgets need 2"),
        (4, 2, r"2 tokens of slice 2 of 2 \(ids 4 to 7\), which has only 1 that were seen"),
    ):
        with pytest.raises(FrspecError, match=words):
            choose.choose(ranking, k, shards=shards)
    assert choose.choose(ranking, 4, shards=2, pad=True).token_ids.tolist() == [0, 1, 4, 5]


@pytest.fixture
def table(byte_level, make_table):
    counts = np.zeros((FOLDS, byte_level.highest_id + 1), dtype=np.int64)
    counts[:, 20:220] = np.random.default_rng(1).poisson(500 / np.arange(1, 201), (FOLDS, 200))
    counts[:, 220:400] = 1
    return make_table(byte_level, {"web": counts})


def test_the_subset_is_balanced_not_nested_and_says_what_that_costs(table, byte_level, tmp_path) -> None:
    recipe = Recipe(forced="none", shards=4, vocabulary_rows=420)
    builder = Builder([NamedTable("counts", table, "0" * 64)], byte_level, recipe)
    subset = builder.subset(160)
    assert np.bincount(subset.token_ids // 105).tolist() == [40, 40, 40, 40]
    effect = builder.shards_effect(160)
    assert (effect["rows_each"], effect["fullest"]) == (40, 85)
    assert effect["coverage"] == subset.metadata["held_out"]["value"] < effect["by_frequency"]
    with pytest.raises(FrspecError, match="equal slices of the vocabulary"):
        subset.prefix(80)
    assert Recipe.from_json(subset.metadata["origin"]["recipe"]) == recipe
    with pytest.raises(UsageError, match="does not go with shards"):
        builder.smallest_covering(0.9)


def test_recipes_without_them_are_recorded_as_before() -> None:
    assert not {"shards", "multiple_of"} & Recipe().as_json().keys()
    assert [Recipe(multiple_of=6, shards=4).rounded(k) for k in (1, 12, 13)] == [12, 12, 24]
    with pytest.raises(UsageError, match="shards must be at least 1"):
        Recipe(shards=0)


def test_the_commands_options(table, cli, tmp_path) -> None:
    table.write(tmp_path / "counts.parquet")
    common = ("build-vocab", tmp_path / "counts.parquet", "--forced", "none", "--vocab-rows", 420)
    code, out, err = cli(*common, "--k", 100, "--multiple-of", 64, "--out", tmp_path / "s.parquet", "--json")
    assert (code, json.loads(out)["subsets"][0]["k"]) == (0, 128)
    assert "k 100 is rounded up to 128" in err
    assert VocabularySubset.read(tmp_path / "s.parquet").prefix(64).k == 64  # still nested
    code, out, err = cli(*common, "--k", 160, "--shards", 4, "--out", tmp_path / "t.parquet")
    assert code == 0
    assert "Equal slices, held out by fold" in err
    code, out, _ = cli("coverage", tmp_path / "t.parquet", "--on", tmp_path / "counts.parquet", "--json")
    built = VocabularySubset.read(tmp_path / "t.parquet").metadata["held_out"]["value"]
    assert (code, json.loads(out)["rows"][0]["coverage"]) == (0, pytest.approx(built))
