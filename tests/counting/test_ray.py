"""The same bytes from a Ray cluster, also if one of its nodes is killed in the middle."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from frspec_cli.counting.options import CountOptions
from frspec_cli.errors import FrspecError
from frspec_cli.progress import Callbacks
from tests.counting.corpora import count, texts, write_jsonl

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


def test_without_ray_it_says_what_to_install(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    path = write_jsonl(tmp_path / "a.jsonl", texts(3))
    with pytest.raises(FrspecError, match="engine ray needs Ray") as caught:
        count([path], tokenizer, tmp_path / "out.parquet", engine="ray")
    assert "frspec[ray]" in caught.value.hint


@pytest.mark.parametrize("options", [CountOptions(), CountOptions(limit_documents=17)])
def test_tasks_that_travel_give_the_bytes_of_a_local_run(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, options: CountOptions
) -> None:
    """Without Ray: a cluster in this process, to which everything travels as bytes."""
    answers: list[Any] = []

    def remote(function: Any) -> Any:
        def run(*arguments: Any) -> int:
            answers.append(pickle.dumps(function(*pickle.loads(pickle.dumps(arguments)))))
            return len(answers) - 1

        return SimpleNamespace(remote=run)

    cluster = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: {"CPU": 2},
        put=lambda value: value,
        remote=lambda **options: remote,
        wait=lambda references, num_returns: (references[-1:], references[:-1]),
        get=lambda reference: pickle.loads(answers[reference]),
        cancel=lambda reference, force: None,
        exceptions=SimpleNamespace(RayError=ConnectionError),
    )
    monkeypatch.setitem(sys.modules, "ray", cluster)
    paths = [write_jsonl(tmp_path / f"s{index}.jsonl.zst", texts(10, seed=index)) for index in range(3)]
    for engine in ("local", "ray"):
        count(paths, tokenizer, tmp_path / f"{engine}.parquet", engine=engine, encoder="reference", options=options)
    assert answers
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "local.parquet").read_bytes()


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)  # clusters start slowly, on a busy machine above all
def test_a_cluster_made_here_gives_the_same_bytes_for_texts_and_conversations(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conversations need the chat template, which travels with the tasks."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    corpus = tmp_path / "corpus"
    for index in range(3):
        write_jsonl(corpus / f"s{index}.jsonl.zst", [*texts(20, seed=index), {"text": None}])
    turns = [[{"role": "user", "content": "hens?"}, {"role": "assistant", "content": text}] for text in texts(20)]
    write_jsonl(corpus / "chat.jsonl", [{"messages": turn} for turn in turns])
    for options in (CountOptions(), CountOptions(limit_documents=47), CountOptions(assistant_only=True)):
        how = {"encoder": "reference", "max_bad": 1.0, "options": options}
        local, ray = tmp_path / "local.parquet", tmp_path / "ray.parquet"
        metadata = count([corpus], tokenizer, local, **how).table.metadata
        advances: list[dict[str, int]] = []
        callbacks = Callbacks(advance=lambda advances=advances, **amounts: advances.append(amounts))
        count([corpus], tokenizer, ray, engine="ray", workers=2, callbacks=callbacks, **how)
        assert ray.read_bytes() == local.read_bytes()
        assert sum(amounts["documents"] for amounts in advances) >= metadata["documents"] > 0


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)  # clusters start slowly, on a busy machine above all
def test_a_node_that_is_killed_in_the_middle_does_not_show(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    corpus = tmp_path / "corpus"
    for index in range(24):
        write_jsonl(corpus / f"s{index:02d}.jsonl.zst", texts(30, seed=index, words=8000))
    count([corpus], tokenizer, tmp_path / "local.parquet", encoder="reference")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        finished: list[int] = []

        def kill_once(size: int) -> None:
            """With 6 of 24 shards saved: at most 4 more are under way, so the node dies with work left for it."""
            finished.append(size)
            if len(finished) == 6:
                cluster.remove_node(second, allow_graceful=False)

        callbacks, how = Callbacks(finished=kill_once), {"encoder": "reference", "engine": "ray", "workers": 4}
        out = tmp_path / "out.parquet"
        count([corpus], tokenizer, out, callbacks=callbacks, **how)
    finally:
        cluster.shutdown()
    assert len(finished) == 24
    assert out.read_bytes() == (tmp_path / "local.parquet").read_bytes()


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(900)  # clusters start slowly, on a busy machine above all
def test_what_goes_wrong_on_a_node_is_one_sentence(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"no zstd")
    with pytest.raises(FrspecError, match=r"a\.jsonl\.zst is broken: damaged zstd data"):
        count([path], tokenizer, tmp_path / "out.parquet", encoder="reference", engine="ray")
