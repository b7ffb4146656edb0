"""Foreign files: exact round trips, each consumer's own way of loading them, and what is refused or repaired."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from frspec_cli import storage
from frspec_cli.errors import FrspecError, UsageError, as_flags
from frspec_cli.subsets.exporting import export_subset
from frspec_cli.subsets.formats import WRITERS, ForeignList, read_foreign
from frspec_cli.subsets.importing import import_list
from frspec_cli.subsets.load import load_subset
from frspec_cli.subsets.manifest import manifest_path
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.subset import VocabularySubset

ROWS = 300
BY_RANK = ("fr-spec", "sglang", "token-freq", "modelopt", "nemo", "gguf", "tsv", "csv")
ids_in_rank_order = st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=60, unique=True)


def subset_of(ids: list[int], tokenizer, *, rows: int = ROWS) -> VocabularySubset:
    """A subset with falling counts, the last one 1."""
    counts = np.arange(len(ids), 0, -1, dtype=np.int64)
    metadata = {
        "tokenizer": {
            "reference": tokenizer.reference,
            "fingerprint": tokenizer.fingerprint,
            "forced": {str(ids[0]): "eos"},
        },
        "vocabulary_rows": rows,
        "vocabulary_rows_from": "model",
        "origin": {},
        "nested": True,
        "sha256": storage.sha256_ids(ids),
    }
    tokens = [tokenizer.token_bytes(index) for index in ids]
    return VocabularySubset(np.array(ids, dtype=np.int32), tokens, counts, np.full(len(ids), 2, np.int8), metadata)


def place(folder: Path, to: str) -> Path:
    return folder / {"eagle3-safetensors": "map.safetensors", "speculators": "pair", "tensorrt-edge": "folder"}.get(
        to, f"file-{to}"
    )


@pytest.mark.parametrize("to", [*WRITERS, "eagle3-safetensors"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=ids_in_rank_order)
def test_round_trips_are_exact(to: str, ids: list[int], byte_level, tmp_path) -> None:
    out = place(tmp_path, to)
    export = export_subset(subset_of(ids, byte_level), to.removesuffix("-safetensors"), out)
    back = import_list(read_foreign(out), byte_level, vocab_rows=ROWS).subset
    assert back.token_ids.tolist() == (ids if to in BY_RANK else sorted(ids))
    assert export.sha256 == back.metadata["sha256"] == storage.sha256_ids(back.token_ids)
    if to in ("token-freq", "tsv", "csv"):
        assert back.counts.tolist() == list(range(len(ids), 0, -1))


@pytest.mark.parametrize("to", ["npy", "json", "txt", "ids-pt"])
def test_plain_lists_keep_the_rank_where_asked(to: str, byte_level, tmp_path) -> None:
    export_subset(subset_of([7, 3, 250], byte_level), to, tmp_path / "x", order="rank")
    assert read_foreign(tmp_path / "x").ids.tolist() == [7, 3, 250]
    assert read_foreign(tmp_path / "x").ranked


@pytest.mark.parametrize("to", [*WRITERS])
def test_equal_subsets_give_equal_bytes(to: str, byte_level, tmp_path) -> None:
    for name in ("a", "b"):
        out = tmp_path / name / "out"
        export_subset(subset_of([7, 3, 250], byte_level), to, out)
    one, two = (sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("a", "b"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


@pytest.mark.parametrize("first", [9, 91, 123, 128, 640])
def test_raw_ids_that_begin_like_json_or_a_pickle(byte_level, tmp_path, first: int) -> None:
    ids = [first, first + 1, first + 7]
    (tmp_path / "ids.bin").write_bytes(np.array(ids, dtype="<i4").tobytes())
    assert read_foreign(tmp_path / "ids.bin").ids.tolist() == ids


# How each consumer loads what we write, step by step.


def test_fr_spec_reads_a_plain_list_most_frequent_first(byte_level, tmp_path) -> None:
    export_subset(subset_of([7, 3, 250], byte_level), "fr-spec", tmp_path / "freq_3.pt")
    loaded = torch.load(tmp_path / "freq_3.pt", weights_only=True)
    assert type(loaded) is list
    assert torch.tensor(loaded, dtype=torch.int32).tolist() == [7, 3, 250]


def test_sglang_gathers_rows_of_the_head_and_maps_topk_back(byte_level, tmp_path) -> None:
    export_subset(subset_of([7, 3, 250], byte_level), "sglang", tmp_path / "map.pt")
    hot = torch.tensor(torch.load(tmp_path / "map.pt", weights_only=True), dtype=torch.int64)
    head = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(0))
    hidden = head[250] * 3
    top = torch.topk(hidden @ head.clone()[hot].T, 1).indices
    assert hot[top].tolist() == [250]


def test_eagle3_adds_the_offset(byte_level, tmp_path) -> None:
    ids = [7, 3, 250, 8]
    for out, load in (("map.pt", lambda p: torch.load(p, weights_only=True)), ("map.safetensors", load_file)):
        export_subset(subset_of(ids, byte_level), "eagle3", tmp_path / out)
        loaded = load(tmp_path / out)
        d2t, t2d = loaded["d2t"], loaded["t2d"]
        assert (d2t.dtype, t2d.dtype, t2d.shape) == (torch.int64, torch.bool, (ROWS,))
        draft = torch.arange(len(ids))
        assert (draft + d2t[draft]).tolist() == sorted(ids)
        assert t2d.nonzero().flatten().tolist() == sorted(ids)


def test_speculators_checks_shapes_and_the_sum(byte_level, tmp_path) -> None:
    export_subset(subset_of([7, 3, 250, 8], byte_level), "speculators", tmp_path / "data")
    d2t, t2d = (torch.from_numpy(np.load(tmp_path / "data" / f"{name}.npy")) for name in ("d2t", "t2d"))
    assert d2t.shape == (4,)
    assert t2d.shape == (ROWS,)
    assert int(t2d.sum()) == 4


def test_speculators_builds_the_same_map_from_our_counts(byte_level, tmp_path) -> None:
    export_subset(subset_of([7, 3, 250, 8], byte_level), "token-freq", tmp_path / "token_freq.pt")
    counts = torch.load(tmp_path / "token_freq.pt", weights_only=True)
    best = sorted(sorted(counts, key=lambda index: (-counts[index], index))[:2])
    assert best == [3, 7]


def test_community_lists_are_bare_numbers(byte_level, tmp_path) -> None:
    export_subset(subset_of([7, 3, 250], byte_level), "txt", tmp_path / "ids.txt")
    assert [int(line) for line in (tmp_path / "ids.txt").read_text().splitlines()] == [3, 7, 250]
    export_subset(subset_of([7, 3, 250], byte_level), "json", tmp_path / "ids.json")
    assert json.loads((tmp_path / "ids.json").read_text()) == [3, 7, 250]
    export_subset(subset_of([7, 3, 250], byte_level), "ids-pt", tmp_path / "ids.pt")
    tensor = torch.load(tmp_path / "ids.pt", weights_only=True)
    assert (tensor.dtype, tensor.tolist()) == (torch.int64, [3, 7, 250])


# Reading: recognised by content.


@pytest.mark.parametrize(
    ("value", "kind", "ids"),
    [
        ([5, 3, 9], "fr-spec", [5, 3, 9]),
        (torch.tensor([5, 3, 9]), "ids-pt", [5, 3, 9]),
        (torch.tensor([5, 3, 9], dtype=torch.int32), "ids-pt", [5, 3, 9]),
        (torch.tensor([0, 0, 2, 2]), "ids-pt-d2t", [0, 1, 4, 5]),
        ({"d2t": torch.tensor([0, 0, 2, 2])}, "eagle3", [0, 1, 4, 5]),
        ({"module.d2t": torch.tensor([0, 2]), "fc.weight": torch.zeros(2, 2)}, "eagle3", None),
        ({"t2d": torch.tensor([True, False, True])}, "t2d", [0, 2]),
        (torch.tensor([True, False, True]), "t2d", [0, 2]),
        ({9: 4, 2: 4, 5: 70, 6: 0}, "token-freq", [5, 2, 9, 6]),  # kept though never seen: a forced token
        ({0: 4, 1: 0, 2: 70}, "token-freq", [2, 0]),  # every token has a count: those that were seen
        (torch.tensor([0.0, 0.5, -1.0, 0.7]), "scores", [3, 1]),
        (torch.tensor([0.0, 0.5, -1.0, 0.7], dtype=torch.bfloat16), "scores", [3, 1]),
    ],
)
def test_what_a_pt_holds_decides(value, kind: str, ids: list[int] | None, tmp_path) -> None:
    torch.save(value, tmp_path / "misleading.txt")
    if ids is None:
        with pytest.raises(FrspecError, match="seems to hold absolute ids"):
            read_foreign(tmp_path / "misleading.txt")
        assert read_foreign(tmp_path / "misleading.txt", read_as="offsets").ids.tolist() == [0, 3]
        return
    entries = read_foreign(tmp_path / "misleading.txt")
    assert (entries.format, entries.ids.tolist()) == (kind, ids)


def test_a_d2t_full_of_ids_is_named_and_can_be_read_as_ids(tmp_path) -> None:
    t2d = torch.zeros(20, dtype=torch.bool)
    t2d[[3, 7, 12]] = True
    torch.save({"d2t": torch.tensor([3, 7, 12]), "t2d": t2d}, tmp_path / "x.pt")
    with pytest.raises(FrspecError, match="absolute ids, not offsets"):
        read_foreign(tmp_path / "x.pt")
    assert read_foreign(tmp_path / "x.pt", read_as="ids").ids.tolist() == [3, 7, 12]


def test_offsets_are_read_from_a_list_where_asked_and_refused_where_there_can_be_none(tmp_path) -> None:
    torch.save([3, 4, 9], tmp_path / "list.pt")
    assert read_foreign(tmp_path / "list.pt").ids.tolist() == [3, 4, 9]
    assert read_foreign(tmp_path / "list.pt", read_as="offsets").ids.tolist() == [3, 5, 11]
    (tmp_path / "list.txt").write_text("3\n4\n9\n")
    with pytest.raises(FrspecError, match="recognised as txt, which cannot hold offsets"):
        read_foreign(tmp_path / "list.txt", read_as="offsets")
    with pytest.raises(UsageError, match="as masks is neither ids nor offsets"):
        read_foreign(tmp_path / "list.pt", read_as="masks")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"d2t": torch.tensor([0, 0, -2]), "t2d": torch.ones(3, dtype=torch.bool)}, "from 0 to 1, 2 of them different"),
        (
            {"d2t": torch.tensor([0, 0]), "t2d": torch.tensor([True, True, True])},
            "disagree about 1 tokens, first token 2",
        ),
        (
            {"d2t": torch.tensor([0, 0]), "t2d": torch.tensor([True, False, True])},
            "disagree about 2 tokens, first token 1",
        ),
        (
            {"d2t": torch.tensor([0, 9, 9]), "t2d": torch.ones(3, dtype=torch.bool)},
            "tokens below 3, each once",
        ),
        ({"d2t": torch.tensor([0.5, 1.0])}, "float32 values"),
        ({"weight": torch.zeros(2)}, "without d2t, t2d or counts"),
        ({"d2t": torch.zeros(2, 2, dtype=torch.int64)}, "d2t is not an array of one dimension"),
        (["a", "b"], "str values"),
        ([True, False], "bool values"),
        ([], "no entries"),
        (torch.zeros(2, 2, dtype=torch.int64), "one dimension"),
        ("text", "holds a str"),
        (torch.tensor([0.5, float("nan")]), "not numbers"),
        ([2**70], "far outside"),
    ],
)
def test_what_is_not_a_vocabulary_is_refused_with_the_reason(value, words: str, tmp_path) -> None:
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(FrspecError, match=words):
        read_foreign(tmp_path / "x.pt")


def test_one_side_of_speculators_pair_is_read_with_the_other(tmp_path) -> None:
    np.save(tmp_path / "d2t.npy", np.array([1, 2, 3]))  # ids 1, 3, 5: alone it would look like a list of ids
    np.save(tmp_path / "t2d.npy", np.isin(np.arange(9), [1, 3, 5]))
    for name in ("d2t.npy", "t2d.npy", "."):
        entries = read_foreign(tmp_path / name)
        assert (entries.ids.tolist(), entries.vocabulary_rows) == ([1, 3, 5], 9)


def test_speculators_newer_names_carry_the_size(tmp_path) -> None:
    for size in (3, 4):
        ids = [1, 3, 5, 8][:size]
        np.save(tmp_path / f"d2t-{size}.npy", np.array(ids) - np.arange(size))
        np.save(tmp_path / f"t2d-{size}.npy", np.isin(np.arange(9), ids))
    assert read_foreign(tmp_path / "d2t-3.npy").ids.tolist() == [1, 3, 5]
    assert read_foreign(tmp_path / "t2d-4.npy").ids.tolist() == [1, 3, 5, 8]
    with pytest.raises(FrspecError, match="several maps"):
        read_foreign(tmp_path)


def test_a_heads_own_map_is_found_in_its_folder(tmp_path) -> None:
    save_file({"d2t": torch.tensor([0, 0, 4]), "fc.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert read_foreign(tmp_path).ids.tolist() == [0, 1, 6]
    save_file({"d2t": torch.zeros(2, 2, dtype=torch.int64)}, tmp_path / "model.safetensors")
    with pytest.raises(FrspecError, match="d2t is not an array of one dimension"):
        read_foreign(tmp_path)
    save_file({"fc.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(FrspecError, match="no d2t and no t2d"):
        read_foreign(tmp_path)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("bare", [False, True])
def test_a_pickle_bomb_is_refused_and_does_nothing(bare: bool, tmp_path) -> None:
    planted, file = tmp_path / "planted", tmp_path / "bomb.pt"
    if bare:
        file.write_bytes(pickle.dumps(Bomb(planted)))
    else:
        torch.save([1, 2, Bomb(planted)], file)
    with pytest.raises(FrspecError, match="Nothing in it was run"):
        read_foreign(file)
    assert not planted.exists()


def test_pickles_inside_numpy_files_are_refused(tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.array([Bomb(tmp_path / "planted")], dtype=object), allow_pickle=True)
    with pytest.raises(FrspecError, match="pickled objects"):
        read_foreign(tmp_path / "x.npy")
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04 nothing", "not a file that torch can read"),
        (b"\x93NUMPY\x01\x00", "refused"),
        ((2**62).to_bytes(8, "little") + b"{" + b" " * 100, "neither text nor"),
        ((30).to_bytes(8, "little") + b"{" + b" " * 100, "not a safetensors file"),
        (b"# ids\n12\nabc\n", r"line 3 \('abc'\) is not a token id"),
        (b"[1, 2", "not valid JSON"),
        (b'{"1": "x"}', "str values"),
        (b"\xff\xfe\x00\x01", "neither text nor a known binary format"),
        (b"", "no entries"),
    ],
)
def test_broken_files_are_refused_in_a_sentence(data: bytes, words: str, tmp_path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(FrspecError, match=words):
        read_foreign(tmp_path / "x")


# Importing: range, repetitions, what is missing.


def _list(ids: list[int], **more) -> ForeignList:
    return ForeignList("x.pt", "fr-spec", np.array(ids), ranked=True, **more)


def test_a_published_style_list_with_a_doubled_bos_is_repaired_and_named(byte_level, tmp_path) -> None:
    """FR-Spec's script counts BOS in every document and appends encode(eos) = [BOS, EOS]: k + 1 entries."""
    bos, eos = (byte_level.backend.token_to_id(name) for name in ("<|begin|>", "<|end|>"))
    published = [65, 66, bos, 67, 300, 301, bos, eos]
    torch.save(published, tmp_path / "freq_7.pt")
    imported = import_list(read_foreign(tmp_path / "freq_7.pt"), byte_level)
    assert imported.subset.token_ids.tolist() == [65, 66, bos, 67, 300, 301, eos]
    assert f"the id {bos} ('<|begin|>') is at entries 2 and 6" in imported.warnings[0]
    assert "end-of-sequence block" in imported.warnings[0]


@pytest.mark.parametrize("tail", [[], [300]])
def test_other_repetitions_are_refused_unless_asked(tail: list[int], byte_level) -> None:
    entries = _list([65, 66, 65, 67, *range(100, 110), *tail])
    with pytest.raises(FrspecError, match=r"the id 65 .* is at entries 0 and 2"):
        import_list(entries, byte_level)
    imported = import_list(entries, byte_level, dedupe=True)
    assert imported.subset.token_ids.tolist() == [65, 66, 67, *range(100, 110), *tail]
    assert as_flags(imported.warnings[0]).count("--dedupe") == 1


def test_ids_out_of_range_are_refused(byte_level) -> None:
    rows = byte_level.highest_id + 1
    for ids in ([65, rows], [-1, 65]):
        with pytest.raises(FrspecError, match=f"outside a vocabulary of {rows} rows"):
            import_list(_list(ids), byte_level)


def test_a_mask_of_another_length_is_another_vocabulary(byte_level) -> None:
    with pytest.raises(FrspecError, match="made for a vocabulary of 100 rows"):
        import_list(_list([65], vocabulary_rows=100), byte_level)
    assert import_list(_list([65], vocabulary_rows=100), byte_level, vocab_rows=100).subset.k == 1
    longer = byte_level.highest_id + 50  # a model may have more rows than its tokenizer has tokens
    assert import_list(_list([65], vocabulary_rows=longer), byte_level).subset.metadata["vocabulary_rows"] == longer


def test_missing_end_and_byte_tokens_are_named(byte_level, sentencepiece) -> None:
    warnings = " ".join(import_list(_list([65, 66, 64]), byte_level).warnings)
    assert f"<|im_end|> ({byte_level.backend.token_to_id('<|im_end|>')})" in warnings
    assert "256 of the 256 byte tokens" in " ".join(import_list(_list([300, 2, 1]), sentencepiece).warnings)


def test_an_ascending_list_cannot_be_cut_until_it_is_ranked_again(byte_level, sentencepiece, make_table) -> None:
    entries = ForeignList("x.npy", "npy", np.array([65, 66, 67]), ranked=False)
    lost = import_list(entries, byte_level)
    assert "the ranking is lost" in lost.warnings[-1]
    with pytest.raises(FrspecError, match="imported from a list by id"):
        lost.subset.prefix(2)
    counts = NamedTable("counts", make_table(byte_level, {"web": {65: 1, 66: 9, 67: 5}}), "")
    assert import_list(entries, byte_level, counts=counts).subset.prefix(2).token_ids.tolist() == [66, 67]
    other = NamedTable("other", make_table(sentencepiece, {"web": {65: 1, 66: 9}}), "")
    with pytest.raises(FrspecError, match="other was counted with another tokenizer"):
        import_list(entries, byte_level, counts=other)


def test_a_file_exchanged_after_its_export_does_not_pass(byte_level, tmp_path) -> None:
    export_subset(subset_of([7, 3, 250], byte_level), "sglang", tmp_path / "map.pt")
    torch.save([7, 3, 251], tmp_path / "map.pt")
    with pytest.raises(FrspecError, match="does not hold the ids that its manifest"):
        import_list(read_foreign(tmp_path / "map.pt"), byte_level, vocab_rows=ROWS)


@pytest.mark.parametrize("to", ["speculators", "sglang"])
@pytest.mark.parametrize("fails", [1, 2, 3])
def test_an_export_of_several_files_is_whole_or_not_there(
    to: str, fails: int, byte_level, tmp_path, monkeypatch
) -> None:
    files = {"speculators": ["d2t.npy", "t2d.npy", "vocabulary.manifest.json"], "sglang": ["x", "x.manifest.json"]}[to]
    subset, write, written = subset_of([7, 3, 250], byte_level), Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) == fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    if fails <= len(files):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            with pytest.raises(FrspecError, match="cannot be written: No space left on device"):
                export_subset(subset, to, tmp_path / "x")
        assert list(tmp_path.iterdir()) == []
    export_subset(subset, to, tmp_path / "x")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == files


def test_the_manifest_knows_the_tokenizer(byte_level, sentencepiece, tmp_path) -> None:
    export_subset(subset_of([70, 71, 200], byte_level), "sglang", tmp_path / "map.pt")
    manifest = storage.read_json(manifest_path(tmp_path / "map.pt"))
    assert (manifest["k"], manifest["tokenizer"]["fingerprint"]) == (3, byte_level.fingerprint)
    with pytest.raises(FrspecError, match="exported for another tokenizer"):
        import_list(read_foreign(tmp_path / "map.pt"), sentencepiece)


def test_t2d_of_a_tokenizers_length_is_warned_about(byte_level, tmp_path) -> None:
    subset = subset_of([7, 3, 250], byte_level)
    subset.metadata["vocabulary_rows_from"] = "tokenizer"
    assert "the model's rows are not known" in as_flags(export_subset(subset, "eagle3", tmp_path / "x").warnings[0])
    export = export_subset(subset, "eagle3", tmp_path / "x", vocab_rows=512)
    assert export.warnings == ()
    assert torch.load(tmp_path / "x", weights_only=True)["t2d"].shape == (512,)


def test_what_a_format_cannot_hold_is_refused(byte_level, tmp_path) -> None:
    subset = subset_of([7, 3, 250], byte_level)
    subset.counts[:] = 0
    with pytest.raises(FrspecError, match="holds no counts"):
        export_subset(subset, "token-freq", tmp_path / "x")
    with pytest.raises(FrspecError, match="does not fit a vocabulary of 100 rows"):
        export_subset(subset, "eagle3", tmp_path / "x", vocab_rows=100)
    with pytest.raises(UsageError, match="does not go with to eagle3"):
        export_subset(subset, "eagle3", tmp_path / "x", order="rank")
    with pytest.raises(UsageError, match="not one of fr-spec"):
        export_subset(subset, "onnx", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_file_serves_where_a_subset_is_asked_for(byte_level, tmp_path) -> None:
    torch.save([65, 66, 64], tmp_path / "freq_3.pt")
    warnings: list[str] = []
    subset = load_subset(tmp_path / "freq_3.pt", tokenizer=byte_level, k=2, warn=warnings.append)
    assert subset.token_ids.tolist() == [65, 66]
    assert any("lacks" in text for text in warnings)
    with pytest.raises(FrspecError, match="does not name its tokenizer"):
        load_subset(tmp_path / "freq_3.pt")
