"""What a head could accept: with its files read rightly, all tokens or better chosen ones, and a wider tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from frspec_cli.doctor.options import WIDE
from frspec_cli.doctor.replays import Replays, Tried
from frspec_cli.replay.report import ReplayedAnswer, figures, kept


def expectations(
    replays: Replays, first: list[ReplayedAnswer], best: Tried, *, changed: bool, hopeless: bool
) -> tuple[dict[str, Any], list[ReplayedAnswer]]:
    """({"expect", "ceilings"}, the replay of the best reading as it would be served: with the subset, if there is one).

    expect: rows of what it is and the acceptance there, from how it is served now to the most that any head could accept.
    ceilings: paired ratios; {} if they are not asked for, or if nothing is accepted anyway. subset, wide_tree: against the
        full vocabulary and the given tree. own_over_subset: a subset of these texts' own tokens against the given one.
    """
    options, setup, seed = replays.options, replays.setup, replays.options.seed
    reading, full = best
    subset = None if setup.subset is None else torch.from_numpy(setup.subset.token_ids.astype(np.int64))
    served = full if subset is None else replays.replayed(reading, ids=subset)
    now = served
    if changed:
        now = first if subset is None else replays.replayed(setup.filed, ids=subset)
    rows = [("as it is served now", now)]
    if changed:
        rows.append(("with its files read rightly", served))
    ceilings: dict[str, Any] = {}
    if options.ceilings and not hopeless:
        if subset is not None:
            own = replays.replayed(reading, ids=_own_subset(replays))
            ceilings["subset"] = kept(served, full, seed=seed)
            ceilings["own_over_subset"] = kept(own[1::2], served[1::2], seed=seed)
            rows += [("with a subset of these texts' own tokens, as large", own[1::2]), ("with all tokens", full)]
        wide = replays.replayed(reading, tree=WIDE)
        ceilings["wide_tree"] = kept(wide, full, seed=seed)
        rows.append((f"with all tokens and a tree of depth {WIDE.depth}, beam {WIDE.beam}, {WIDE.nodes} nodes", wide))
    expect = [{"what": what, "acceptance": _interval(replayed, seed=seed)} for what, replayed in rows]
    most = float(options.tree.depth + 1)
    expect.append({"what": "the most that this tree can", "acceptance": {"value": most, "low": most, "high": most}})
    return {"expect": expect, "ceilings": ceilings}, served


def _interval(replayed: Sequence[ReplayedAnswer], *, seed: int) -> dict[str, float] | None:
    interval: dict[str, float] | None = figures(replayed, seed=seed)["interval"]
    return interval


def _own_subset(replays: Replays) -> torch.Tensor:
    """As many tokens as the subset has: those of every other answer, most frequent first, then the subset's own.

    The answers between them are what it is tried on.
    """
    subset = replays.setup.subset
    assert subset is not None
    counts = np.zeros(replays.setup.target.rows, dtype=np.int64)
    for answer in replays.answers[::2]:
        counts += np.bincount(answer.ids[answer.prompt_length :], minlength=len(counts))
    seen = np.flatnonzero(counts)
    order = seen[np.argsort(-counts[seen], kind="stable")]
    ids = dict.fromkeys([*order.tolist(), *subset.token_ids.tolist()])
    return torch.tensor(list(ids)[: subset.k])
