"""What `auto` chooses, from figures that are given: nothing here is timed."""

from __future__ import annotations

import json
import shutil

import pytest

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.errors import UsageError
from frspec_cli.tuning import choose as module
from frspec_cli.tuning.choose import Wanted, choose, fastest_dtype
from frspec_cli.tuning.options import SAFE_TREE, TreeChoice
from frspec_cli.tuning.probe import Probe, estimate
from frspec_cli.tuning.shapes import HeadShape, ModelShape
from tests.conftest import FAST_BFLOAT16

SMOLLM2 = ModelShape(rows=49_152, hidden=576, layers=30, weights=106_168_320)
HEAD = HeadShape(weights=5_529_600, own_rows=None)


def probe(bfloat16: tuple[float, ...], float32: tuple[float, ...], *, layer_ms: float = 0.25) -> Probe:
    """A probe whose products of 28 million numbers take so many ms with 1, 4 and 16 rows."""
    products = [
        {"dtype": dtype, "rows": rows, "ms": ms}
        for dtype, times in (("bfloat16", bfloat16), ("float32", float32))
        for rows, ms in zip((1, 4, 16), times, strict=True)
    ]
    return Probe.model_validate(FAST_BFLOAT16 | {"products": products, "layer_ms": layer_ms})


AVX512_BF16 = probe((1.9, 2.0, 2.6), (3.8, 4.0, 4.9))
"""Rows are nearly free, bfloat16 is half of float32."""
AVX2 = probe((3.5, 14.0, 56.0), (5.0, 8.0, 12.0))
"""No bfloat16 products: one row is converted on the way, sixteen are sixteen times as much."""


@pytest.fixture
def smollm2(monkeypatch, tiny_folder, tmp_path):
    """A model of SmolLM2's size with a head that is known to accept 2.952 at 5, 4, 16; returns a function that chooses."""
    head = tmp_path / "head"
    head.mkdir()
    (head / "config.json").write_text(json.dumps({"acceptance_length": 2.952}))
    monkeypatch.setattr(module.ModelShape, "of", staticmethod(lambda name, folder: SMOLLM2))
    monkeypatch.setattr(module.HeadShape, "of", staticmethod(lambda folder, **_: HEAD))

    def run(found: Probe, **wanted):
        monkeypatch.setattr(module, "probe_for", lambda *_, **__: found)
        return choose(Wanted(str(tiny_folder), draft=str(head), vocab="unread.parquet", **({"k": 8192} | wanted)))

    return run


def test_with_bfloat16_instructions_a_tree_is_drafted_in_bfloat16(smollm2) -> None:
    choice = smollm2(AVX512_BF16)
    assert (choice.method, choice.dtype, choice.source) == ("frspec", "bfloat16", "probe")
    assert choice.rate > 1.3 * choice.plain
    assert choice.tree.nodes >= 6
    assert not choice.slower


def test_without_them_plain_decoding_runs_and_the_sentence_has_the_figures(smollm2) -> None:
    choice = smollm2(AVX2)
    assert (choice.method, choice.dtype) == ("ar", "bfloat16")
    assert choice.rate == choice.plain
    assert choice.why.startswith(
        "no draft tree pays here (estimated from a probe of this machine): plain decoding in bfloat16 "
    )
    assert "the best tree (frspec in float32, k 8,192, depth " in choice.why


def test_what_the_user_gave_wins(smollm2) -> None:
    given = smollm2(AVX2, method="frspec")
    assert (given.method, given.dtype, given.slower) == ("frspec", "float32", True)
    deep = smollm2(AVX2, tree=TreeChoice(depth=5))
    assert (deep.method, deep.tree.depth, deep.slower) == ("frspec", 5, True)
    whole = smollm2(AVX2, tree=TreeChoice.of("7,5,40"))
    assert (whole.method, whole.dtype, whole.tree) == ("frspec", "float32", TreeConfig(7, 5, 40))
    dtype = smollm2(AVX512_BF16, dtype="float32")
    assert dtype.dtype == "float32"
    assert smollm2(AVX2, drafts=True).method == "frspec"


def test_nothing_is_probed_where_everything_was_given(smollm2, monkeypatch) -> None:
    choice = smollm2(None, dtype="bfloat16", tree=TreeChoice.of("5,4,16"))
    assert (choice.source, choice.method, choice.tree) == ("given", None, TreeConfig(5, 4, 16))
    assert smollm2(None, dtype="float64", method="lookup").source == "given"


def test_a_dtype_that_no_probe_knows_gets_the_safe_tree(smollm2) -> None:
    choice = smollm2(None, dtype="float64")
    assert (choice.source, choice.tree, choice.dtype) == ("default", SAFE_TREE, "float64")


def test_a_head_without_a_recorded_acceptance_gets_the_safe_tree(smollm2, tmp_path) -> None:
    (tmp_path / "head" / "config.json").write_text("{}")
    choice = smollm2(AVX512_BF16)
    assert (choice.source, choice.tree, choice.dtype) == ("probe", SAFE_TREE, "bfloat16")
    assert choice.why == "a safe small tree, for nothing is known about this head"


def test_a_model_without_a_head_takes_plain_decodings_dtype(tiny_folder, monkeypatch) -> None:
    for found, dtype in ((AVX2, "bfloat16"), (probe((5.0, 9.0, 30.0), (4.0, 4.5, 6.0)), "float32")):
        monkeypatch.setattr(module, "probe_for", lambda *_, found=found, **__: found)
        choice = choose(Wanted(str(tiny_folder)))
        assert (choice.dtype, choice.method) == (dtype, None)


def test_many_rows_may_want_another_dtype_than_one(tiny_folder, monkeypatch) -> None:
    monkeypatch.setattr(module, "probe_for", lambda *_, **__: AVX2)
    assert fastest_dtype(str(tiny_folder), rows=1, device="cpu") == "bfloat16"
    assert fastest_dtype(str(tiny_folder), rows=16, device="cpu") == "float32"


def test_sizes_of_a_tree_win_over_the_tree_and_are_checked() -> None:
    assert TreeChoice.of("5,4,16", nodes=8) == TreeChoice(5, 4, 8)
    assert TreeChoice.of("auto", beam=2).over(TreeConfig(3, 4, 8)) == TreeConfig(3, 2, 8)
    assert TreeChoice.of("auto").tree is None
    for arguments in ({"tree": "5,4"}, {"tree": "auto", "depth": 100_000}):
        with pytest.raises(UsageError):
            TreeChoice.of(**arguments)


def test_an_estimate_adds_products_and_layers() -> None:
    costs = {each.dtype: each for each in estimate(AVX2, SMOLLM2, HEAD)}["float32"]
    everything = (106_168_320 + 49_152 * 576) / 28_000_000
    assert costs.plain_ms(500) == pytest.approx(5.0 * everything + 30 * 0.25)
    assert costs.target_ms(16, 500) == pytest.approx(12.0 * everything + 30 * 0.25)
    assert costs.head_ms(49_152, 4) == pytest.approx(8.0 * 49_152 * 576 / 28_000_000)
    assert costs.estimated
    dispatch_free = estimate(AVX2, SMOLLM2, HEAD, compiled=True)[1]
    assert dispatch_free.plain_ms(1) == pytest.approx(5.0 * everything)


def test_shapes_are_read_from_files(tiny_folder, tmp_path) -> None:
    shape = ModelShape.of("tiny", tiny_folder)
    layer = 32 * 32 * 2 + 2 * 16 * 32 + 3 * 48 * 32  # q and o, k and v, gate, up and down
    assert shape == ModelShape(rows=320, hidden=32, layers=4, weights=4 * layer)


def test_a_probe_is_kept_unless_the_machine_is_busy(tmp_path, monkeypatch) -> None:
    from frspec_cli.tuning import probe as probing

    path, made = tmp_path / "probe.json", []
    monkeypatch.setattr(probing, "kept", lambda kind, key: path)
    monkeypatch.setattr(
        probing, "measure_products", lambda *_: (made.append(1) or FAST_BFLOAT16["products"], 28_000_000)
    )
    monkeypatch.setattr(probing, "measure_layer", lambda device: 0.2)
    monkeypatch.setattr(probing, "_busy", lambda: True)
    probing.probe_for(SMOLLM2, "cpu")
    assert not path.exists()
    monkeypatch.setattr(probing, "_busy", lambda: False)
    first = probing.probe_for(SMOLLM2, "cpu")
    assert probing.probe_for(SMOLLM2, "cpu") == first
    assert len(made) == 2
    path.write_text("{}")
    said: list[str] = []
    probing.probe_for(SMOLLM2, "cpu", say=said.append)
    assert len(made) == 3
    assert "is damaged and is made again" in said[0]


def test_the_probe_itself_runs(tmp_path, monkeypatch) -> None:
    """Its figures are this machine's, so only their form is looked at."""
    from frspec_cli.tuning import probe as probing

    monkeypatch.setattr(probing, "_SECONDS", 0.0)
    monkeypatch.setattr(probing, "kept", lambda kind, key: tmp_path / "probe.json")
    found = probing.probe_for(ModelShape(rows=64, hidden=32, layers=2, weights=1000), "cpu")
    assert [(each.dtype, each.rows) for each in found.products] == [
        (dtype, rows) for dtype in ("bfloat16", "float32") for rows in (1, 4, 16)
    ]
    assert found.numbers == 64 * 32
    shutil.rmtree(tmp_path)
