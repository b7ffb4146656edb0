"""The target's features: the same online and on disk, each shard made by one rank, and the choice between the two."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from frspec_cli.errors import ArtifactError, UsageError
from frspec_cli.training import features
from frspec_cli.training.features import FeatureStore, OnlineFeatures, feature_bytes
from frspec_cli.training.options import LARGEST_ON_DISK, chosen_mode, features_mode_named

TAPS = (1, 2)


@pytest.fixture
def passes(monkeypatch):
    """The numbers of answers in the target's calls."""
    counted: list[int] = []
    compute = features.target_features

    def counting(model, answers, *, taps):
        counted.append(len(answers))
        return compute(model, answers, taps=taps)

    monkeypatch.setattr(features, "target_features", counting)
    return counted


def store(model, answers, folder) -> FeatureStore:
    return FeatureStore(model, answers, taps=TAPS, folder=folder, identity="tiny")


def test_online_features_are_those_on_disk_and_leave_no_file(target64, answers, tmp_path):
    on_disk, online = store(target64, answers, tmp_path / "f"), OnlineFeatures(target64, answers, taps=TAPS)
    members = [17, 3, 38, 4]
    for kept, fresh in zip(on_disk.take(members), online.take(members), strict=True):
        for one, other in zip((kept.last, *kept.taps), (fresh.last, *fresh.taps), strict=True):
            assert (one - other).abs().max() < 1e-12  # the batch of a pass is another one, and so is the rounding
        assert torch.equal(kept.teacher_ids, fresh.teacher_ids)
        assert (kept.teacher_probabilities - fresh.teacher_probabilities).abs().max() < 1e-6
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_online_features_of_a_batch_are_the_same_bits_each_time(target, answers):
    online = OnlineFeatures(target, answers, taps=TAPS)
    first, second = online.take([5, 30, 6]), online.take([5, 30, 6])
    assert all(torch.equal(one.last, other.last) for one, other in zip(first, second, strict=True))
    assert [len(each.last) for each in first] == [len(answers[i].ids) - 1 for i in (5, 30, 6)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_shard_is_made_by_one_rank(target, answers, tmp_path, passes, count):
    many = answers * 4  # 5 shards
    waits: list[int] = []
    ranks = [SimpleNamespace(count=count, index=i, wait=lambda i=i: waits.append(i)) for i in range(count)]
    stores = [store(target, many, tmp_path) for _ in ranks]
    for _ in range(2):  # the second time there is nothing to make, nor to wait for
        for each, rank in zip(stores, ranks, strict=True):
            each.prepare(range(len(many)), rank)
    made = list(tmp_path.iterdir())
    if count == 1:
        assert (made, waits) == ([], [])
    else:
        assert (len(made), len(passes), waits) == (5, 5, list(range(count)))
    for each in stores:
        each.take([0, 40, 80, 120, 159])
    assert (sorted(passes), len(list(tmp_path.iterdir()))) == ([32] * 5, 5)


def test_a_rank_that_does_not_find_a_shard_makes_it(target, answers, tmp_path, passes):
    """Ranks on machines that share no disk."""
    here = store(target, answers, tmp_path / "here")
    here.prepare(range(40), SimpleNamespace(count=2, index=1, wait=lambda: None))
    assert passes == [8]
    here.take([0, 39])
    assert passes == [8, 32]


def test_the_size_on_disk_is_counted_beforehand(target, answers, tmp_path):
    store(target, answers, tmp_path).take([0, 39])
    tensors = [tensor for path in tmp_path.iterdir() for tensor in load_file(path).values()]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert feature_bytes(answers, states=3, size=32, itemsize=4) == held


@pytest.mark.parametrize(
    ("mode", "folder", "epochs", "size", "chosen"),
    [
        ("auto", None, 8, LARGEST_ON_DISK, "disk"),
        ("auto", None, 8, LARGEST_ON_DISK + 1, "online"),
        ("auto", None, 1, 10, "online"),
        ("auto", Path("f"), 1, LARGEST_ON_DISK + 1, "disk"),
        ("disk", None, 1, LARGEST_ON_DISK + 1, "disk"),
        ("online", None, 8, 10, "online"),
    ],
)
def test_auto_keeps_what_is_small_and_read_again(mode, folder, epochs, size, chosen):
    assert chosen_mode(mode, folder=folder, epochs=epochs, size=size) == chosen


@pytest.mark.parametrize(
    ("mode", "folder", "said"),
    [
        ("online", Path("f"), "features names a folder, but features_mode online writes none"),
        ("cloud", None, "features_mode cloud is not one of auto, online, disk"),
    ],
)
def test_modes_that_mean_nothing_are_refused(mode, folder, said):
    with pytest.raises(UsageError, match=said):
        features_mode_named(mode, folder=folder)


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        (
            "last",
            lambda t: t[:-1],
            r"the tensor 0\.last is \[\d+, \d+\] of torch\.float64; expected \[\d+, \d+\] of floats",
        ),
        ("last", lambda t: t.long(), r"of torch\.int64; expected \[\d+, \d+\] of floats"),
        ("taps", lambda t: t[:1], r"the tensor 0\.taps is \[1, "),
        ("teacher_ids", lambda t: t.double(), "expected .* of whole numbers"),
        ("teacher_ids", lambda t: t - 10**6, "expected ids below"),
        ("teacher_ids", lambda t: t + 10**6, "expected ids below"),
        ("teacher_probabilities", lambda t: t[:, :3], r"the tensor 0\.teacher_probabilities is \[\d+, 3\]"),
        ("teacher_probabilities", None, r"the tensor 0\.teacher_probabilities is missing"),
    ],
)
def test_a_shard_that_holds_something_else_is_named(target64, answers, tmp_path, part, change, said):
    _ = FeatureStore(target64, answers[:2], taps=(1, 2), folder=tmp_path, identity="tiny")[0]
    [path] = tmp_path.iterdir()
    tensors = load_file(path)
    tensor = tensors.pop(f"0.{part}")
    save_file(tensors if change is None else tensors | {f"0.{part}": change(tensor).contiguous()}, path)
    with pytest.raises(ArtifactError, match=said) as caught:
        _ = FeatureStore(target64, answers[:2], taps=(1, 2), folder=tmp_path, identity="tiny")[0]
    assert caught.value.hint == "Remove it: it is computed again."
