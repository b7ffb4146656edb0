"""The tasks of a prompt file, and samples that are fair to all of them."""

from __future__ import annotations

import pytest

from frspec_cli.answers.tasks import stratified_sample, tasks

SPEC_BENCH = ["writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"]


def test_mt_bench_is_one_task_where_all_of_it_is_there() -> None:
    categories = [*SPEC_BENCH, "qa", "rag"]
    assert tasks(categories) == ["mt_bench"] * 8 + ["qa", "rag"]
    assert tasks(["math", "coding", "qa"]) == ["math", "coding", "qa"]


@pytest.mark.parametrize("count", [1, 5, 6, 24, 48, 96, 479, 480, 500])
def test_a_choice_is_spread_over_the_tasks_and_within_them(count: int) -> None:
    labels = tasks([name for name in SPEC_BENCH for _ in range(10)] + [name for name in "pqrst" for _ in range(80)])
    chosen = stratified_sample(labels, count)
    shares = [sum(labels[index] == label for index in chosen) for label in dict.fromkeys(labels)]
    assert len(chosen) == len(set(chosen)) == min(count, 480)
    assert max(shares) - min(shares) <= 1
    if count == 48:  # eight of MT-bench: one of each of its categories
        assert [index // 10 for index in chosen if index < 80] == list(range(8))


def test_a_small_task_leaves_its_share_to_the_others() -> None:
    assert stratified_sample(["a", "b", "b", "b", "b", "b"], 5) == [0, 1, 2, 3, 4]
    assert stratified_sample(["", "", "", ""], 2) == [0, 2]
