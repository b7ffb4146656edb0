"""What a head could accept: with its files read rightly, all tokens or better chosen ones, and a wider tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from frspec_cli.doctor.options import WIDE
from frspec_cli.doctor.replays import Replays, Tried
from frspec_cli.replay.cycles import Acceptance
from frspec_cli.replay.report import ReplayedAnswer, kept


def expectations(
    replays: Replays, first: list[ReplayedAnswer], best: Tried, *, changed: bool, ceilings: bool
) -> dict[str, Any]:
    """{"expect", "ceilings"} of a head that drafts.

    first, best: as it is served now, and as it would be with the reading that accepts most.
    expect: rows of what it is, the acceptance length there and the paired ratio to now (`times`, None where there is none),
        from how it is served now to the most that any head could accept.
    ceilings: paired ratios; {} unless `ceilings`. subset: against all tokens. own_over_subset: a subset of these
        texts' own tokens against the given one. wide_tree: against the given one.
    """
    options, seed = replays.options, replays.options.seed
    reading, served = best
    length = Acceptance.of([each.cycles for each in first]).length
    rows: list[tuple[str, dict[str, float] | None]] = [("as it is served now", None)]
    if changed:
        rows.append(("with its files read rightly", kept(served, first, seed=seed)))
    ratios: dict[str, Any] = {}
    if ceilings:
        if replays.setup.subset is not None:
            own = replays.replayed(reading, ids=_own_subset(replays))
            full = replays.replayed(reading, ids="all")
            ratios["subset"] = kept(served, full, seed=seed)
            ratios["own_over_subset"] = kept(own[1::2], served[1::2], seed=seed)
            rows.append(("with a subset of their own tokens", kept(own[1::2], first[1::2], seed=seed)))
            rows.append(("with all tokens", kept(full, first, seed=seed)))
        wide = replays.replayed(reading, tree=WIDE, ids=replays.setup.subset_ids)
        ratios["wide_tree"] = kept(wide, served, seed=seed)
        rows.append((f"with a tree of {WIDE.depth},{WIDE.beam},{WIDE.nodes}", kept(wide, first, seed=seed)))
    expect = [
        {"what": what, "acceptance_length": length * (times["value"] if times else 1.0), "times": times}
        for what, times in rows
    ]
    most = float(options.tree.depth + 1)
    expect.append({"what": "the most that this tree can", "acceptance_length": most, "times": None})
    return {"expect": expect, "ceilings": ratios}


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
