"""A few cycles before the clock starts: what is compiled, recorded or allocated on first use is never part of a timing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from frspec_cli.decoding.cache import attended
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import FrspecError

CYCLES = 3
"""A step is compiled in its first call, and on a GPU recorded as a CUDA graph in its second."""


def warm_up(
    engine: Engine, prompts: Iterable[Sequence[int]], *, max_new_tokens: int, sampling: Sampling | None = None
) -> None:
    """Runs a few cycles at every shape that these prompts (as token ids) call for.

    A compiled step is made once for each number of attended slots, so there the texts' whole lengths are gone through, in
    a cache that is long enough for all of them. A prompt that cannot be decoded is passed over: it fails in its own turn.
    """
    ends = []
    for ids in prompts:
        try:
            if engine.compiled:
                engine.check(ids, max_new_tokens)
            else:
                _first_cycles(engine, ids, max_new_tokens, sampling)
        except FrspecError:
            continue
        if not engine.compiled:
            return
        ends += [attended(len(ids) + engine.rows, compiled=True), engine.cache_length(len(ids), max_new_tokens)]
    if ends:
        _through_lengths(engine, min(ends), max(ends), sampling or Sampling())


def _first_cycles(engine: Engine, ids: Sequence[int], max_new_tokens: int, sampling: Sampling | None) -> None:
    steps = engine.generate(ids, max_new_tokens=max_new_tokens, sampling=sampling, ignore_eos=True)
    for _ in zip(range(1 + CYCLES), steps, strict=False):
        pass


@torch.inference_mode()
def _through_lengths(engine: Engine, first: int, last: int, sampling: Sampling) -> None:
    """Cycles behind one token that attend to `first`, twice, .. `last` slots."""
    noise, warpers = engine.noise(sampling), sampling.warpers()
    end = last
    while end >= first:
        state, _ = engine.prefill([0], last, warpers, None if noise is None else noise.rows(1, 1))
        for _ in range(CYCLES):
            rows = None if noise is None else noise.rows(2, engine.drafter.depth + 1)
            state, _ = engine.cycle(state._replace(reach=end - engine.rows), warpers, rows)
        end //= 2
