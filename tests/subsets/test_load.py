"""A subset is accepted for a tokenizer in which every id means the same bytes, and for a model that has all its rows."""

from __future__ import annotations

import pytest

from frspec_cli.errors import FrspecError
from frspec_cli.subsets.build import Builder
from frspec_cli.subsets.load import load_subset
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.recipe import Recipe
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.tokens.tokenizer import load_tokenizer


@pytest.fixture
def saved(byte_level, make_table, tmp_path):
    table = make_table(byte_level, {"web": {65: 75, 66: 30, 67: 8, 300: 6}})
    path = tmp_path / "subset.parquet"
    Builder([NamedTable("counts", table, "0" * 64)], byte_level, Recipe()).subset(7).write(path)
    return path


def _variant(byte_level, folder, change):
    """The byte-level tokenizer with its tokenizer.json's text changed."""
    folder.mkdir()
    (folder / "tokenizer.json").write_text(change(byte_level.path.read_text()))
    return load_tokenizer(str(folder))


def test_the_same_tokenizer_is_accepted_in_silence(saved, byte_level) -> None:
    warnings: list[str] = []
    assert load_subset(saved, tokenizer=byte_level, model_rows=500, warn=warnings.append).k == 7
    assert warnings == []


def test_k_takes_the_first_rows(saved) -> None:
    assert load_subset(saved, k=4).token_ids.tolist() == load_subset(saved).token_ids[:4].tolist()
    for k, words in ((8, "more than the 7"), (2, "less than the 3")):
        with pytest.raises(FrspecError, match=words):
            load_subset(saved, k=k)


def test_other_files_of_the_same_vocabulary_are_accepted_and_said(saved, byte_level, tmp_path) -> None:
    other = _variant(byte_level, tmp_path / "other", lambda text: text.replace("<|reserved_0|>", "<|reserved_1|>"))
    warnings: list[str] = []
    load_subset(saved, tokenizer=other, warn=warnings.append)
    assert len(warnings) == 1
    assert "mean the same bytes in both" in warnings[0]


def test_another_tokenizer_is_refused_with_both_names_and_the_first_id_that_differs(
    saved, byte_level, tmp_path
) -> None:
    other = _variant(byte_level, tmp_path / "other", lambda text: text.replace("<|im_end|>", "<|eot_id|>"))
    with pytest.raises(FrspecError) as caught:
        load_subset(saved, tokenizer=other)
    index = byte_level.backend.token_to_id("<|im_end|>")
    for part in (byte_level.fingerprint[:12], other.fingerprint[:12], f"id {index}", "<|im_end|>", "<|eot_id|>"):
        assert part in caught.value.message


def test_ids_past_the_models_rows_are_refused(saved) -> None:
    with pytest.raises(FrspecError, match="the model has only 300 rows"):
        load_subset(saved, model_rows=300)


def test_a_prefix_describes_itself_and_not_the_larger_file(byte_level, make_table, tmp_path) -> None:
    table = make_table(byte_level, {"web": {65: 75, 66: 30, 67: 8, 300: 6}})
    builder = Builder([NamedTable("counts", table, "0" * 64)], byte_level, Recipe(pad=True))
    builder.subset(10).write(tmp_path / "large")
    for k in (9, 7, 5):
        load_subset(tmp_path / "large", k=k).write(tmp_path / "small")
        metadata = VocabularySubset.read(tmp_path / "small").metadata
        own = builder.subset(k).metadata
        assert (metadata["k"], metadata["padded"], metadata["sha256"]) == (k, own["padded"], own["sha256"])
        assert metadata["held_out"] is None
        assert metadata["coverage"] is None
