"""Scripts of tokens, coverage by source and script, held out by fold, intervals, and the picture."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from frspec_cli.counting.table import FOLDS
from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.statistics import jackknife
from frspec_cli.subsets import scripts
from frspec_cli.subsets.build import Builder
from frspec_cli.subsets.coverage import coverage, coverage_rows, curve, most_frequent_lost, rarest_kept
from frspec_cli.subsets.evaluation import Evaluation, evaluate
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.plot import plot_curves
from frspec_cli.subsets.recipe import Recipe
from frspec_cli.subsets.scripts import Scripts, script_of
from frspec_cli.tokens.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    ("token", "script"),
    [
        (" the", "Latin"),
        ("é", "Latin"),
        ("123", "none"),
        (" ...\n", "none"),
        (" Привет", "Cyrillic"),
        ("中文", "Han"),
        ("の", "Hiragana"),
        ("カ", "Katakana"),
        ("한국", "Hangul"),
        ("ㄅ", "Bopomofo"),
        ("1中a", "Han"),
        ("ि", "Devanagari"),
        ("\u0301", "none"),
        ("ー", "none"),
        ("𐤀", "other"),
        (b"\xe4\xb8", "partial"),
        (b"\xad", "partial"),
        (b"", "none"),
    ],
)
def test_a_tokens_script_is_that_of_its_first_letter(token, script: str) -> None:
    assert script_of(token if isinstance(token, bytes) else token.encode()) == script


def test_every_script_name_is_unicodes_own() -> None:
    for name in scripts.NAMES:
        regex.compile(rf"\p{{Script={name}}}")
    assert scripts.check_name("CJK") == "cjk"
    assert scripts.check_name("cyrillic") == "Cyrillic"
    assert scripts.check_name("Ugaritic") == "Ugaritic"
    with pytest.raises(UsageError, match="no script named 'Cyrilic'") as caught:
        scripts.check_name("Cyrilic")
    assert "Cyrillic" in caught.value.hint


@settings(max_examples=200, deadline=None)
@given(character=st.characters(min_codepoint=0x80, categories=["Ll", "Lu", "Lo"]), cut=st.integers(1, 3))
def test_a_cut_character_could_be_of_its_own_script(character: str, cut: int) -> None:
    whole = script_of(character.encode())
    piece = character.encode()[:cut]
    if whole in ("none", "other") or len(piece) == len(character.encode()) or unicodedata.category(character) == "Cn":
        return
    possible = scripts._possible_scripts(piece)
    assert possible is None or whole in possible


def test_the_first_byte_of_three_is_never_latin() -> None:
    """E0 begins U+0800 to U+0FFF: below, UTF-8 is shorter, so the bytes cannot be a piece of a Latin letter."""
    possible = scripts._possible_scripts(b"\xe0")
    assert possible is not None
    assert "Devanagari" in possible
    assert not possible & {"Latin", "Greek", "Cyrillic"}


def test_partial_tokens_are_attributed_by_the_text_around_them(byte_level) -> None:
    rows = byte_level.highest_id + 1
    token_scripts = Scripts.of(byte_level, rows)
    ids = {name: byte_level.backend.token_to_id(name) for name in ("ä", "Ð", "º")}  # bytes E4, D0, BA
    han = next(i for i in byte_level.vocabulary if script_of(byte_level.token_bytes(i)) == "Han")
    cyrillic = next(i for i in byte_level.vocabulary if script_of(byte_level.token_bytes(i)) == "Cyrillic")
    zh, ru = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    zh[[han, ids["ä"], ids["º"]]] = [90, 40, 20]
    zh[cyrillic] = 10
    ru[[cyrillic, ids["Ð"], ids["º"]]] = [100, 50, 30]
    scores = token_scripts.scores("cjk", {"zh": zh, "ru": ru})
    assert scores[han] == 90
    assert scores[ids["ä"]] == 40  # a lead byte of Han characters, and of nothing else
    assert scores[ids["Ð"]] == 0  # Cyrillic's
    assert scores[ids["º"]] == 18  # a continuation byte: 90 % of zh's 20, none of ru's 30
    assert token_scripts.scores("Cyrillic", {"ru": ru})[ids["Ð"]] == 50


def test_coverage_by_source_and_script(byte_level, make_table) -> None:
    han = next(i for i in byte_level.vocabulary if script_of(byte_level.token_bytes(i)) == "Han")
    letter = byte_level.backend.token_to_id("a")
    table = make_table(byte_level, {"en": {letter: 80, 15: 20}, "zh": {han: 50}})
    token_scripts = Scripts.of(byte_level, table.rows)
    ids_by_fold = {1: [np.array([letter])] * FOLDS, 2: [np.array([letter, han])] * FOLDS}
    rows = {(r.k, r.source, r.script): r for r in coverage_rows(ids_by_fold, table.counts, token_scripts)}
    assert rows[1, "all", "all"].coverage == pytest.approx(80 / 150)
    assert rows[2, "all", "all"].coverage == pytest.approx(130 / 150)
    assert (rows[1, "en", "all"].coverage, rows[1, "zh", "all"].coverage) == (0.8, 0.0)
    assert (rows[1, "all", "Han"].coverage, rows[2, "all", "Han"].coverage, rows[2, "all", "cjk"].coverage) == (0, 1, 1)
    assert rows[2, "all", "none"].tokens == 20
    assert sum(r.tokens for (k, source, _), r in rows.items() if k == 2 and source != "all") == 150


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_coverage_equals_a_sum_by_hand(data: st.DataObject) -> None:
    shape = (FOLDS, 12)
    numbers = data.draw(st.lists(st.integers(0, 5), min_size=120, max_size=120))
    counts = {"a": np.array(numbers).reshape(shape), "b": np.array(numbers[::-1]).reshape(shape)}
    order = np.array(data.draw(st.permutations(range(12))))
    ids_by_fold = {k: [order[:k]] * FOLDS for k in (2, 5, 12)}
    for row in coverage_rows(ids_by_fold, counts, None):
        part = sum(counts.values()) if row.source == "all" else counts[row.source]
        assert row.coverage == pytest.approx(part[:, order[: row.k]].sum() / part.sum())
        assert row.low <= row.coverage <= row.high


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Documents with their own share of rare tokens. 95 % intervals over 400 draws: fewer than 0.91 by chance < 1e-3."""
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        lengths = rng.integers(50, 500, size=(FOLDS, 20))
        shares = rng.beta(8, 2, size=lengths.shape)  # mean 0.8, and overdispersed by document
        interval = jackknife((lengths * shares).sum(axis=1), lengths.sum(axis=1))
        assert interval is not None
        hits += interval.low <= 0.8 <= interval.high
    assert hits / 400 > 0.91


def test_intervals_of_one_fold_or_none() -> None:
    one = jackknife(np.array([0, 3, 0]), np.array([0, 4, 0]))
    assert one is not None
    assert (one.value, one.low, one.high) == (0.75, 0.75, 0.75)
    assert jackknife(np.zeros(3), np.zeros(3)) is None


def test_rarest_kept_and_most_frequent_lost() -> None:
    counts = np.array([9, 0, 7, 3, 3])
    assert rarest_kept(np.array([0, 3, 1]), counts, 2) == [(1, 0), (3, 3)]
    assert most_frequent_lost(np.array([0, 3]), counts, 5) == [(2, 7), (4, 3)]
    assert rarest_kept(np.array([0, 99]), counts, 1) == [(99, 0)]


def _evaluate(byte_level, table, subset, sha256: str = "a" * 64) -> Evaluation:
    entry = NamedTable("counts", table, sha256)
    return evaluate("subset", subset, entry, [entry], byte_level)


def test_on_its_own_table_a_subset_is_held_out_by_fold(byte_level, make_table) -> None:
    counts = np.zeros((FOLDS, byte_level.highest_id + 1), dtype=np.int64)
    counts[:, 65] = 10
    counts[np.arange(FOLDS), 100 + np.arange(FOLDS)] = 10
    table = make_table(byte_level, {"web": counts})
    entry = NamedTable("counts", table, "a" * 64)
    subset = Builder([entry], byte_level, Recipe(forced="none")).subset(10)
    own = _evaluate(byte_level, table, subset)
    assert own.how == "held out by fold"
    assert coverage_rows({10: own.ids_by_fold(10)}, table.counts, None)[0].coverage == 0.5
    other = _evaluate(byte_level, table, subset, "b" * 64)
    assert other.how == "other text"
    assert coverage_rows({10: other.ids_by_fold(10)}, table.counts, None)[0].coverage == pytest.approx(190 / 200)


def test_a_mixed_subset_is_held_out_only_with_all_its_tables(byte_level, make_table) -> None:
    one = NamedTable("one", make_table(byte_level, {"web": {65: 500, 66: 300, 67: 90}}), "1" * 64)
    two = NamedTable("two", make_table(byte_level, {"code": {70: 500, 66: 300}}), "2" * 64)
    recipe = Recipe(weights={"web": 2, "code": 1})
    subset = Builder([one, two], byte_level, recipe).subset(6)
    assert evaluate("s", subset, one, [one], byte_level).how == "in sample"
    both = evaluate("s", subset, one, [one, two], byte_level)
    assert both.how == "held out by fold"
    assert both.builder is not None
    assert both.ids_by_fold(6)[0].tolist() == subset.token_ids.tolist()


def test_curves_rise_to_what_the_subset_covers_and_can_be_drawn(byte_level, make_table, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    counts = rng.poisson(2000 / np.arange(1, byte_level.highest_id + 2), (FOLDS, byte_level.highest_id + 1))
    table = make_table(byte_level, {"web": counts})
    subset = Builder([NamedTable("counts", table, "a" * 64)], byte_level, Recipe()).subset(200)
    line = curve("web", [subset.token_ids.astype(np.int64)] * FOLDS, table.counts["web"])
    assert line.ks[-1] == 200
    assert (np.diff(line.value) >= 0).all()
    assert line.value[-1] == pytest.approx(subset.metadata["coverage"])
    for name in ("x.png", "y.png"):
        plot_curves(tmp_path / name, [line], marks=[150])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
    with pytest.raises(FrspecError, match="its name must end in"):
        plot_curves(tmp_path / "x.jpeg", [line])


def test_a_table_of_another_file_of_the_same_tokenizer_is_accepted(byte_level, make_table, tmp_path) -> None:
    text = byte_level.path.read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace("<|reserved_0|>", "<|reserved_1|>"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    other = load_tokenizer(str(tmp_path))
    warnings: list[str] = []
    entry = NamedTable("counts", make_table(byte_level, {"web": {65: 5}}), "a" * 64)
    Builder([entry], other, Recipe(), warn=warnings.append)
    assert "mean the same bytes in both" in warnings[0]
    reserved = byte_level.backend.token_to_id("<|reserved_0|>")
    with_reserved = NamedTable("counts", make_table(byte_level, {"web": {reserved: 5}}), "a" * 64)
    with pytest.raises(FrspecError, match=f"first at id {reserved}"):
        Builder([with_reserved], other, Recipe())


def test_coverage_refuses_a_table_of_another_tokenizer(byte_level, sentencepiece, make_table, tmp_path) -> None:
    table = make_table(byte_level, {"web": {65: 50, 66: 40, 67: 30}})
    subset = Builder([NamedTable("counts", table, "a" * 64)], byte_level, Recipe(forced="none")).subset(2)
    other = make_table(sentencepiece, {"web": {65: 5, 300: 5}})
    with pytest.raises(FrspecError, match=r"the subset was made for another tokenizer: .* differ, first at id 65"):
        coverage(subset, other)
    other.metadata["tokenizer"]["reference"] = str(tmp_path / "gone")
    with pytest.raises(FrspecError, match=r"another tokenizer than the table's: .*gone .*, which cannot be loaded"):
        coverage(subset, other)


def test_coverage_accepts_another_file_of_the_same_tokenizer_and_says_so(byte_level, make_table, tmp_path) -> None:
    text = byte_level.path.read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace("<|reserved_0|>", "<|reserved_1|>"))
    other = load_tokenizer(str(tmp_path))
    table = make_table(byte_level, {"web": {65: 50, 66: 40, 67: 30}})
    subset = Builder([NamedTable("counts", table, "a" * 64)], byte_level, Recipe(forced="none")).subset(2)
    warnings: list[str] = []
    interval = coverage(subset, make_table(other, {"web": {65: 30, 67: 10}}), warn=warnings.append)
    assert interval is not None
    assert interval.value == 0.75
    assert "mean the same bytes in both" in warnings[0]
