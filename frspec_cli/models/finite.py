"""Whether a model's numbers are numbers: NaN and infinity are refused where they are first met.

From NaN every later choice is arbitrary, and equally arbitrary with every method: nothing else would tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from frspec_cli.errors import FrspecError, option

_DIAGNOSED = 2048  # ids of a text that is run once more to find the layer


def finite_rows(values: torch.Tensor) -> torch.Tensor:
    """[..., V] -> bool [...]: whether all of a row's values are finite. Two passes, no copy, nothing read by the host."""
    return (values.amin(dim=-1) > float("-inf")) & (values.amax(dim=-1) < float("inf"))


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite; integers are."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # float8, which can only be converted
        tensor = tensor.float()
    return bool(finite_rows(tensor.flatten()))


def not_finite(model: Any, token_ids: Sequence[int], met: str) -> FrspecError:
    """The error for a model that computed NaN or infinity.

    model: transformers' causal LM.
    token_ids: the text up to there.
    met: where it was met, such as "at new token 3".
    """
    weight = next((name for name, values in model.named_parameters() if not is_finite(values)), None)
    place = _first_place(model, token_ids)
    return FrspecError(
        f"the target computes NaN or infinity {met}" + (f", first in {place}." if place else "."),
        hint=f"Its weight {weight} is not finite: get the model again."
        if weight
        else f"Its weights are finite: {option('dtype')} float32 has a wider range than float16.",
    )


@torch.no_grad()
def _first_place(model: Any, token_ids: Sequence[int]) -> str | None:
    """The first part of the model whose output over the ids is not finite, layers by their numbers; None if unknown."""
    if len(token_ids) > _DIAGNOSED:
        return None
    ids = torch.tensor([list(token_ids)], dtype=torch.int64, device=model.device)
    try:
        out = model(input_ids=ids, use_cache=False, output_hidden_states=True, logits_to_keep=1)
    except RuntimeError:  # out of memory, say: the error itself matters more than its place
        return None
    number = next((number for number, each in enumerate(out.hidden_states) if not is_finite(each)), None)
    if number is None:
        return None if is_finite(out.logits) else "the LM head"
    if number == 0:
        return "the embedding"
    return f"layer {number - 1}" + (" or the norm after it" if number == len(out.hidden_states) - 1 else "")
