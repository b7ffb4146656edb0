"""What a draft vocabulary gives models of other vocabularies, by the costs that ship."""

from __future__ import annotations

import pytest

from frspec_cli.tuning.costs import find_costs, read_costs
from frspec_cli.tuning.vocabulary import speedup_at


def test_at_its_own_vocabulary_it_is_the_published_ratio() -> None:
    """The paper's table of Llama-3-8B: FR-Spec with 32,768 tokens is 1.12 times as fast as EAGLE-2."""
    ratio, k = speedup_at(read_costs(find_costs("fr-spec-8b")), 128_256, context=256)
    assert (round(ratio, 2), k) == (1.12, 32_768)


def test_a_larger_vocabulary_makes_only_the_lm_heads_dearer() -> None:
    file = read_costs(find_costs("fr-spec-8b"))
    costs, rows, context = file.costs[0], 262_144, 256
    lengths = {point.k: point.length for point in file.acceptance}
    tree = file.acceptance[0].tree
    row = (costs.head_ms(128_256, tree.beam) - costs.head_ms(65_536, tree.beam)) / (128_256 - 65_536)
    first = (costs.head_ms(128_256, 1) - costs.head_ms(65_536, 1)) / (128_256 - 65_536)
    more = rows - 128_256
    eagle = costs.cycle_ms(tree, 128_256, context) + more * (first + tree.depth * row)
    rates = {k: lengths[k] / (costs.cycle_ms(tree, k, context) + more * row) for k in lengths if k < 128_256}
    best = max(rates, key=rates.__getitem__)
    assert speedup_at(file, rows, context=context) == (pytest.approx(rates[best] * eagle / lengths[128_256]), best)
