"""What a step costs here, measured in the engine: whole cycles of a few trees, from which the parts follow.

Trees of two depths and one beam differ by draft levels alone, so a level is a quarter of what four more take; what is left
of the draft is what each cycle pays once. A cycle less its draft is the target over the tree's nodes. All cells take turns,
round by round, each after a warm-up, behind texts of the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median as middle
from typing import Any

import torch

from frspec_cli.bench.measure import rotated, warm_up
from frspec_cli.bench.profile import time_text
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import Method, TreeConfig
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.models.lm_head import LmHead
from frspec_cli.statistics import median
from frspec_cli.tuning.probe import take_turns

_SHALLOW, _DEEP = 2, 6
CELLS = ((2, 1, 2), (6, 1, 4), (2, 2, 6), (6, 2, 8), (2, 4, 16), (6, 4, 32), (2, 8, 64), (6, 8, 12))
"""Depth, beam, nodes: every beam at both depths, and from 2 to 64 rows for the target."""
LONG_CELLS = ((2, 1, 2), (2, 4, 16), (2, 8, 64))
"""Those at the other lengths of text, which change the target's part alone."""
FEW_CELLS = ((2, 4, 16), (6, 4, 16))
"""Those of a dtype in which every row costs as much as the first: enough to show it."""
TOKENS = 16

Cell = tuple[int, TreeConfig | None]
"""A length of text and a tree; None is plain decoding."""


@dataclass(frozen=True)
class Timed:
    """One cell's rounds. cycle, draft: seconds of each cycle, and of the draft in it."""

    cycle: list[list[float]]
    draft: list[list[float]]

    @property
    def rest(self) -> list[list[float]]:
        """Each cycle without its draft."""
        return [
            [whole - part for whole, part in zip(cycle, draft, strict=True)]
            for cycle, draft in zip(self.cycle, self.draft, strict=True)
        ]


def measure_costs(
    pipeline: Pipeline,
    ids: Sequence[int],
    *,
    method: Method,
    ks: Sequence[int],
    contexts: Sequence[int],
    rounds: int,
    few: bool = False,
    seed: int = 0,
    finished: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """The fields of `StepCosts` for a pipeline's dtype.

    ids: a text at least as long as the longest context.
    method: frspec or eagle, the cells' own.
    ks: sizes of the draft's LM head that are timed by themselves; the first is the cells' own.
    few: measure `FEW_CELLS` only.
    finished: called with the number of texts decoded.
    """
    timed = time_cells(
        pipeline, ids, method=method, k=ks[0], contexts=contexts, rounds=rounds, few=few, finished=finished
    )
    full = full_lm_head(pipeline).size
    rows = sorted({1, *(tree.beam for _, tree in timed if tree is not None)})
    heads = time_heads(pipeline, [*dict.fromkeys((*ks, full))], rows)
    first = {tree: each for (context, tree), each in timed.items() if context == contexts[0] and tree is not None}
    level, once = _levels(first, {count: heads[ks[0], count] for count in rows})
    plain = {context: _ms(median(each.cycle, seed=seed)) for (context, tree), each in timed.items() if tree is None}
    target = [{"context": context, "rows": 1, **figure} for context, figure in plain.items()] + [
        {"context": context, "rows": tree.nodes, **_ms(median(each.rest, seed=seed))}
        for (context, tree), each in timed.items()
        if tree is not None
    ]
    return {
        "dtype": str(pipeline.target.dtype).removeprefix("torch."),
        "k": full,
        "plain": [{"context": context, **figure} for context, figure in plain.items()],
        "target": target,
        "level": [{"rows": rows, "ms": ms} for rows, ms in level.items()],
        "head": [{"k": k, "rows": rows, "ms": ms} for (k, rows), ms in heads.items()],
        "cycle": {"ms": once},
        "compiled": pipeline.compiler is not None,
        "estimated": False,
    }


def time_cells(
    pipeline: Pipeline,
    ids: Sequence[int],
    *,
    method: Method,
    k: int,
    contexts: Sequence[int],
    rounds: int,
    few: bool,
    finished: Callable[[int], None],
) -> dict[Cell, Timed]:
    """What each cell took, plain decoding's at every length first."""
    cells = [(contexts[0], tree) for tree in _trees(FEW_CELLS if few else CELLS, k)]
    cells += [(context, tree) for context in contexts[1:] for tree in ([] if few else _trees(LONG_CELLS, k))]
    plain: list[Cell] = [(context, None) for context in contexts]
    size = k if method == "frspec" else None
    engines: dict[TreeConfig | None, Engine] = {None: pipeline.engine("ar", tree=TreeConfig())}
    engines |= {tree: pipeline.engine(method, tree=tree, k=size) for _, tree in cells if tree is not None}
    for tree, engine in engines.items():
        warm_up(engine, [ids[:context] for context, each in (*plain, *cells) if each == tree], max_new_tokens=TOKENS)
    timed: dict[Cell, Timed] = {cell: Timed([], []) for cell in (*plain, *cells)}
    for number in range(rounds):
        for context, tree in rotated(list(timed), number):
            text = time_text(engines[tree], ids[:context], TOKENS)
            timed[context, tree].cycle.append(text.cycle)
            timed[context, tree].draft.append(text.draft)
            finished(1)
    return timed


def full_lm_head(pipeline: Pipeline) -> LmHead:
    """The draft's whole LM head: the head's own, or the target's."""
    own = None if pipeline.head is None else pipeline.head.own_lm_head
    return own or pipeline.target.lm_head


def cells_of(contexts: Sequence[int], *, few: bool) -> int:
    """How many cells a round of `measure_costs` has."""
    return len(contexts) + (len(FEW_CELLS) if few else len(CELLS) + len(LONG_CELLS) * (len(contexts) - 1))


def _trees(cells: Sequence[tuple[int, int, int]], k: int) -> list[TreeConfig]:
    """The cells' trees as a draft of k tokens can fill them."""
    return [TreeConfig(depth=depth, beam=beam, nodes=nodes).within(k) for depth, beam, nodes in cells]


def _levels(timed: Mapping[TreeConfig, Timed], heads: Mapping[int, float]) -> tuple[dict[int, float], float]:
    """(ms of a level without its LM head by beam, ms that each cycle pays once).

    timed: the cells of the first context, each beam at both depths. heads: ms of the LM head by rows.
    """
    draft = {(tree.depth, tree.beam): 1000 * middle(chain(*each.draft)) for tree, each in timed.items()}
    levels, once = {}, []
    for beam in sorted({beam for _, beam in draft}):
        one = (draft[_DEEP, beam] - draft[_SHALLOW, beam]) / (_DEEP - _SHALLOW)
        levels[beam] = max(0.0, one - heads[beam])
        once.append(max(0.0, draft[_SHALLOW, beam] - one - heads[1]))
    return levels, middle(once)


@torch.inference_mode()
def time_heads(pipeline: Pipeline, ks: Sequence[int], rows: Sequence[int]) -> dict[tuple[int, int], float]:
    """ms of the draft's LM head of k rows over so many hidden states, normalised and its best chosen."""
    full = full_lm_head(pipeline)
    width = full.weight.shape[1]
    works: dict[Any, Callable[[], Any]] = {}
    for k in ks:
        # Which rows they are makes no difference to the cost.
        weight = full.weight[:k].contiguous() if k < full.size else full.weight
        for count in rows:
            hidden = torch.full((count, width), 0.01, dtype=weight.dtype, device=weight.device)

            def work(hidden: torch.Tensor = hidden, weight: torch.Tensor = weight, most: int = max(rows)) -> None:
                logits = torch.nn.functional.linear(hidden, weight)
                logits.float().logsumexp(-1)
                logits.topk(min(most, len(weight)))

            works[k, count] = work
    device = str(full.weight.device)
    return {name: 1000 * middle(seconds) for name, seconds in take_turns(works, device).items()}


def _ms(figures: Mapping[str, float]) -> dict[str, float]:
    return {"ms": 1000 * figures["value"], "low": 1000 * figures["low"], "high": 1000 * figures["high"]}
