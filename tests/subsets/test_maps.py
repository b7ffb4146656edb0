"""Maps of today's projects: each consumer's own reading of what is written, damaged files, and which reading is taken."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from frspec_cli import storage
from frspec_cli.errors import FrspecError, UsageError, as_flags
from frspec_cli.subsets.exporting import export_subset
from frspec_cli.subsets.formats import read_foreign
from frspec_cli.subsets.formats.d2t import target_ids
from frspec_cli.subsets.importing import import_list
from frspec_cli.subsets.load import load_subset
from frspec_cli.subsets.subset import VocabularySubset

ROWS = 300
IDS = [200, 7, 3, 250, 8]  # by rank


@pytest.fixture
def subset(byte_level) -> VocabularySubset:
    """Five ids by rank; the first is forced and was never seen."""
    tokenizer = byte_level.record() | {"forced": {"200": "eos"}}
    metadata = {
        "tokenizer": tokenizer,
        "vocabulary_rows": ROWS,
        "vocabulary_rows_from": "model",
        "origin": {},
        "nested": True,
        "sha256": storage.sha256_ids(IDS),
    }
    counts = np.array([0, 40, 30, 20, 10], dtype=np.int64)
    tokens = byte_level.tokens_bytes(IDS)
    return VocabularySubset(np.array(IDS, dtype=np.int32), tokens, counts, np.array([0, 2, 2, 2, 2], np.int8), metadata)


# Model-Optimizer: a lone d2t.pt, offsets in frequency order.


def test_modelopt_reads_offsets_by_frequency(subset, tmp_path) -> None:
    export_subset(subset, "modelopt", tmp_path / "d2t.pt")
    d2t = torch.load(tmp_path / "d2t.pt", weights_only=True)
    assert (d2t.dtype, d2t.shape) == (torch.int64, (5,))  # all that its loader checks
    assert (torch.arange(5) + d2t).tolist() == IDS


@pytest.mark.parametrize("folder", [False, True])
def test_a_lone_d2t_that_does_not_ascend_is_a_ranking(folder: bool, byte_level, tmp_path) -> None:
    torch.save(torch.tensor([7, 6, 8, 0, 246, -3]), tmp_path / "d2t.pt")  # 7, 7, ...: as offsets, one token twice
    with pytest.raises(FrspecError, match="outside a vocabulary"):
        import_list(read_foreign(tmp_path / "d2t.pt"), byte_level)
    ids = [60, 7, 3, 250, 8, 1]
    torch.save(torch.tensor(ids) - torch.arange(6), tmp_path / "d2t.pt")
    imported = import_list(read_foreign(tmp_path if folder else tmp_path / "d2t.pt"), byte_level)
    assert (imported.entries.reading, imported.entries.format) == ("offsets", "ids-pt-d2t")
    assert imported.subset.token_ids.tolist() == ids
    assert imported.subset.prefix(2).token_ids.tolist() == ids[:2]


def test_a_short_lone_d2t_is_asked_about_and_never_guessed(byte_level, tmp_path) -> None:
    path = tmp_path / "d2t.pt"
    torch.save(torch.tensor([200, 19, 5]), path)  # offsets of 200, 20, 7, and ids as well
    entries = read_foreign(path)
    with pytest.raises(FrspecError) as caught:
        import_list(entries, byte_level)
    shown = as_flags(str(caught.value.message) + caught.value.hint)
    for part in ("may hold ids or offsets, and both fit", "200, 19, 5 or 200, 20, 7", "--as ids", "--as offsets"):
        assert part in shown
    with pytest.raises(FrspecError, match="both fit"):
        load_subset(path, tokenizer=byte_level)
    for read_as, ids in (("ids", [200, 19, 5]), ("offsets", [200, 20, 7])):
        assert import_list(read_foreign(path, read_as=read_as), byte_level).subset.token_ids.tolist() == ids


def test_the_size_of_the_vocabulary_settles_which_reading_is_meant(byte_level, tmp_path) -> None:
    highest = byte_level.highest_id
    torch.save(torch.tensor([5, 60, highest]), tmp_path / "x.pt")  # as offsets the last would be past the end
    imported = import_list(read_foreign(tmp_path / "x.pt"), byte_level)
    assert (imported.entries.reading, imported.subset.token_ids.tolist()) == ("ids", [5, 60, highest])


def test_one_rule_for_d2t_whoever_reads_it(byte_level, tmp_path) -> None:
    """In any order, in range, each token once, and what t2d marks: lists and heads take and refuse the same."""
    ids = np.array(IDS)
    d2t, t2d = ids - np.arange(5), np.isin(np.arange(ROWS), ids)
    torch.save({"d2t": torch.from_numpy(d2t), "t2d": torch.from_numpy(t2d)}, tmp_path / "x.pt")
    entries = read_foreign(tmp_path / "x.pt")
    assert (entries.ids.tolist(), entries.ranked, entries.vocabulary_rows) == (IDS, True, ROWS)
    assert target_ids(d2t, t2d, name="a head", rows=ROWS).tolist() == IDS
    d2t[1] = d2t[0] - 1  # twice the token 200
    torch.save({"d2t": torch.from_numpy(d2t), "t2d": torch.from_numpy(t2d)}, tmp_path / "x.pt")
    for refused in (
        lambda: read_foreign(tmp_path / "x.pt"),
        lambda: target_ids(d2t, t2d, name="a head", rows=ROWS),
    ):
        with pytest.raises(FrspecError, match="4 of them different"):
            refused()


# NeMo Automodel.


def test_nemo_checks_the_two_sizes(subset, byte_level, tmp_path) -> None:
    export_subset(subset, "nemo", tmp_path / "draft_token_map.pt")
    loaded = torch.load(tmp_path / "draft_token_map.pt", weights_only=True)
    assert (loaded["selected_token_ids"].dtype, loaded["selected_token_ids"].tolist()) == (torch.int64, IDS)
    assert loaded["target_vocab_size"] == ROWS
    mask = torch.zeros(ROWS, dtype=torch.bool)
    mask[loaded["selected_token_ids"]] = True
    assert int(mask.sum()) == 5
    imported = import_list(read_foreign(tmp_path), byte_level, vocab_rows=ROWS)  # its folder, by the file's own name
    assert imported.subset.token_ids.tolist() == IDS
    torch.save({"selected_token_ids": loaded["selected_token_ids"]}, tmp_path / "draft_token_map.pt")
    with pytest.raises(FrspecError, match="without target_vocab_size"):
        read_foreign(tmp_path)


# TensorRT-Edge-LLM.


def test_tensorrt_edge_reads_int32_by_id_with_the_end_token(subset, byte_level, tmp_path) -> None:
    export = export_subset(subset, "tensorrt-edge", tmp_path / "reduced")
    ids = load_file(tmp_path / "reduced" / "vocab_map.safetensors")["vocab_map"]
    info = json.loads((tmp_path / "reduced" / "reduced_vocab.json").read_text())
    assert (ids.dtype, ids.tolist()) == (np.int32, sorted(IDS))
    assert 200 in ids
    assert (info["vocab_size"], info["reduced_vocab_size"]) == (ROWS, 5)
    assert "not a multiple of 128" in export.warnings[0]
    for path in (tmp_path / "reduced", tmp_path / "reduced" / "vocab_map.safetensors"):
        imported = import_list(read_foreign(path), byte_level, vocab_rows=ROWS)
        assert imported.subset.token_ids.tolist() == sorted(IDS)
    save_file({"vocab_map": ids[:4]}, tmp_path / "reduced" / "vocab_map.safetensors")
    with pytest.raises(FrspecError, match=r"holds 4 ids, but reduced_vocab.json beside it says 5"):
        read_foreign(tmp_path / "reduced")


def test_tensorrt_edge_needs_the_end_token(subset, tmp_path) -> None:
    subset.metadata["tokenizer"]["forced"] = {"299": "eos"}
    with pytest.raises(FrspecError, match="lacks the end-of-sequence id 299"):
        export_subset(subset, "tensorrt-edge", tmp_path / "x")
    subset.metadata["tokenizer"] |= {"forced": {}, "reference": str(tmp_path / "gone")}
    assert "ids are unknown" in export_subset(subset, "tensorrt-edge", tmp_path / "x").warnings[0]


# llama.cpp.


def test_llama_cpp_scatters_logits_by_d2t(subset, byte_level, tmp_path) -> None:
    from gguf import GGUFReader

    export_subset(subset, "gguf", tmp_path / "map.gguf")
    reader = GGUFReader(tmp_path / "map.gguf")
    d2t = next(tensor for tensor in reader.tensors if tensor.name == "d2t")
    assert d2t.tensor_type.name == "I64"
    full = np.full(ROWS, -np.inf)
    full[d2t.data] = np.arange(5)
    assert np.argsort(-full)[:5].tolist() == IDS[::-1]
    assert list(reader.fields["qwen35.nextn.draft_vocab_ids"].contents()) == IDS
    assert import_list(read_foreign(tmp_path / "map.gguf"), byte_level).subset.token_ids.tolist() == IDS


def _gguf(path, *, d2t=None, ids=None, dtype=np.int32) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "eagle3")
    if ids is not None:
        writer.add_array("qwen35.nextn.draft_vocab_ids", ids)
    if d2t is not None:
        writer.add_tensor("d2t", np.array(d2t, dtype=dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_with_a_list_only_and_those_that_are_refused(byte_level, tmp_path) -> None:
    path = tmp_path / "x"
    _gguf(path, ids=IDS)
    entries = read_foreign(path)
    assert (entries.format, entries.ids.tolist(), entries.ranked) == ("gguf-list", IDS, True)
    _gguf(path, d2t=[0, 0, 2, 2])
    entries = read_foreign(path)
    assert (entries.format, entries.ids.tolist()) == ("gguf-d2t", [0, 1, 4, 5])
    _gguf(path, d2t=[9, 8, 7], ids=[9, 8, 6])
    with pytest.raises(FrspecError, match="name different tokens"):
        read_foreign(path)
    _gguf(path)
    with pytest.raises(FrspecError, match="without a draft vocabulary"):
        read_foreign(path)
    path.write_bytes(b"GGUF\x03\x00\x00")
    with pytest.raises(FrspecError, match=r"not a whole .gguf"):
        read_foreign(path)


# Raw int32 and ranges.


def test_raw_int32_and_ranges(subset, byte_level, tmp_path) -> None:
    export_subset(subset, "int32", tmp_path / "ids.bin", order="rank")
    assert list(struct.unpack("<5i", (tmp_path / "ids.bin").read_bytes())) == IDS
    entries = read_foreign(tmp_path / "ids.bin")
    assert (entries.format, entries.ids.tolist(), entries.otherwise) == ("int32", IDS, None)
    export_subset(subset, "ranges", tmp_path / "ranges.bin")
    pairs = list(struct.iter_unpack("<2i", (tmp_path / "ranges.bin").read_bytes()))
    assert pairs == [(3, 4), (7, 9), (200, 201), (250, 251)]
    assert [i for start, end in pairs for i in range(start, end)] == sorted(IDS)
    (tmp_path / "ranges.bin.manifest.json").unlink()
    with pytest.raises(FrspecError, match="may hold ids or ranges, and both fit"):
        import_list(read_foreign(tmp_path / "ranges.bin"), byte_level)
    for read_as, ids in (("ranges", sorted(IDS)), ("ids", [3, 4, 7, 9, 200, 201, 250, 251])):
        assert read_foreign(tmp_path / "ranges.bin", read_as=read_as).ids.tolist() == ids
    with pytest.raises(FrspecError, match="does not hold ranges"):
        read_foreign(tmp_path / "ids.bin", read_as="ranges")
    (tmp_path / "list.json").write_text("[[3, 5], [7, 9]]")
    assert read_foreign(tmp_path / "list.json").ids.tolist() == [3, 4, 7, 8]
    (tmp_path / "list.json").write_text("[[3, 5], [4, 9]]")
    with pytest.raises(FrspecError, match="rise from one to the next"):
        read_foreign(tmp_path / "list.json")
    (tmp_path / "noise.bin").write_bytes(struct.pack("<3i", 5, -1, 2**30))
    with pytest.raises(FrspecError, match="neither text nor a known binary format"):
        read_foreign(tmp_path / "noise.bin")


# Text and JSON.


@pytest.mark.parametrize(
    ("text", "kind", "ids", "counts"),
    [
        ("# made by hand\n5\n3  # a comment\n\n9\n", "txt", [5, 3, 9], None),
        ("5\t70\n2\t4\n9\t0\n", "tsv", [5, 2, 9], [70, 4, 0]),
        ("2\t4\n5\t70\n9\t4\n", "tsv", [5, 2, 9], [70, 4, 4]),  # by id: ranked by count
        ("token_id,count\n5,70\n2,4\n", "csv", [5, 2], [70, 4]),
        ('rank,token,token_id\n0,"a,b",5\n1,c,2\n', "csv", [5, 2], None),
        ('{"ids": [5, 3, 9]}', "json", [5, 3, 9], None),
    ],
)
def test_text_and_json_lists(text: str, kind: str, ids: list[int], counts: list[int] | None, tmp_path) -> None:
    (tmp_path / "x").write_text(text)
    entries = read_foreign(tmp_path / "x")
    assert (entries.format, entries.ids.tolist(), entries.ranked) == (kind, ids, True)
    assert (None if entries.counts is None else entries.counts.tolist()) == counts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0\t77\n1\t12\n2\t90\n", "ids or ranks"),
        ("1,2,3\n4,5,6\n", "3 columns without names"),
        ("rank,token\n0,a\n", "which of its columns rank, token holds token ids"),
        ("id,count\n5,x\n", r"line 2, column 2 \('x'\) is not a whole number"),
        ("id,count\n", "no ids"),
    ],
)
def test_tables_that_could_mean_something_else_are_refused(text: str, words: str, tmp_path) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(FrspecError, match=words):
        read_foreign(tmp_path / "x")


def test_tables_are_written_as_spreadsheets_read_them(subset, tmp_path) -> None:
    export_subset(subset, "csv", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == "token_id,count\n7,40\n3,30\n250,20\n8,10\n200,0\n"
    export_subset(subset, "tsv", tmp_path / "x.tsv")
    assert (tmp_path / "x.tsv").read_text().startswith("7\t40\n3\t30\n")
    export_subset(subset, "json-ids", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"ids": sorted(IDS)}


def test_a_forced_token_that_was_never_seen_is_written_with_0(subset, byte_level, tmp_path) -> None:
    export_subset(subset, "token-freq", tmp_path / "token_freq.pt")
    counts = torch.load(tmp_path / "token_freq.pt", weights_only=True)
    assert counts == {7: 40, 3: 30, 250: 20, 8: 10, 200: 0}
    best = sorted(sorted(counts, key=lambda index: (-counts[index], index))[:5])  # as speculators builds its map
    assert best == sorted(IDS)
    back = import_list(read_foreign(tmp_path / "token_freq.pt"), byte_level, vocab_rows=ROWS).subset
    assert (back.token_ids.tolist(), back.counts.tolist()) == ([7, 3, 250, 8, 200], [40, 30, 20, 10, 0])


# Rows past the tokenizer's last token.


def test_rows_past_the_tokenizer_but_inside_the_model_are_accepted(byte_level, tmp_path) -> None:
    rows = byte_level.highest_id + 1
    torch.save([65, 66, rows + 2], tmp_path / "x.pt")
    imported = import_list(read_foreign(tmp_path / "x.pt"), byte_level, vocab_rows=rows + 9)
    assert imported.subset.token_ids.tolist() == [65, 66, rows + 2]
    assert f"past the tokenizer's last token, {rows - 1}" in " ".join(imported.warnings)
    imported.subset.write(tmp_path / "subset.parquet")
    assert load_subset(tmp_path / "subset.parquet", tokenizer=byte_level, model_rows=rows + 9).k == 3
    with pytest.raises(FrspecError, match="outside a vocabulary"):
        import_list(read_foreign(tmp_path / "x.pt"), byte_level, vocab_rows=rows + 2)


# What `inspect` and `import-vocab` say.


@pytest.mark.parametrize(
    ("to", "name", "kind", "reading"),
    [
        ("modelopt", "d2t.pt", "ids-pt-d2t", "offsets"),
        ("nemo", "draft_token_map.pt", "nemo", "ids"),
        ("tensorrt-edge", "folder", "tensorrt-edge", "ids"),
        ("gguf", "map.gguf", "gguf", "ids"),
        ("int32", "ids.bin", "int32", "ids"),
        ("ranges", "ranges.bin", "ranges", "ranges"),
        ("ids-pt", "ids.pt", "ids-pt", "ids"),
        ("tsv", "ids.tsv", "tsv", "counts"),
        ("csv", "ids.csv", "csv", "counts"),
        ("json-ids", "ids.json", "json", "ids"),
        ("txt", "ids.txt", "txt", "ids"),
        ("speculators", "pair", "speculators", "offsets"),
    ],
)
def test_inspect_says_which_reading_it_took(to, name, kind, reading, subset, byte_level, cli, tmp_path) -> None:
    if to == "modelopt":  # negative offsets can be nothing else
        subset = replace(subset, token_ids=np.array([200, 7, 3, 250, 2], dtype=np.int32))
    export_subset(subset, to, tmp_path / name)
    value = json.loads(cli("inspect", tmp_path / name, "--json")[1])
    assert (value["kind"], value["format"], value["reading"]) == ("draft-vocabulary", kind, reading)
    assert "fits_also" not in value  # the manifest says which reading is meant
    imported = tmp_path / "subset.parquet"
    code, out, err = cli("import-vocab", tmp_path / name, "--tokenizer", byte_level.path.parent, "--vocab-rows", ROWS,
                         "--out", imported, "--json")  # fmt: skip
    assert code == 0, err
    assert (json.loads(out)["format"], json.loads(out)["reading"]) == (kind, reading)


def test_inspect_says_where_both_readings_fit(cli, tmp_path) -> None:
    torch.save(torch.tensor([200, 19, 5]), tmp_path / "d2t.pt")
    value = json.loads(cli("inspect", tmp_path / "d2t.pt", "--json")[1])
    assert (value["reading"], value["fits_also"]) == ("ids", "offsets")


def test_a_reading_that_a_file_cannot_have_is_refused(tmp_path) -> None:
    torch.save([5, 3, 9], tmp_path / "x.pt")
    with pytest.raises(FrspecError, match="cannot hold ranges"):
        read_foreign(tmp_path / "x.pt", read_as="ranges")
    with pytest.raises(UsageError, match="neither ids nor offsets nor ranges"):
        read_foreign(tmp_path / "x.pt", read_as="masks")


def test_several_maps_in_a_folder_are_not_chosen_among(tmp_path) -> None:
    for name in ("d2t.pt", "draft_token_map.pt"):
        torch.save(torch.tensor([0, 0, 2]), tmp_path / name)
    with pytest.raises(FrspecError, match=r"several maps: d2t.pt, draft_token_map.pt; name one"):
        read_foreign(tmp_path)
