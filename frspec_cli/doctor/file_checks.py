"""What a head's files show without a replay: for which target and tokenizer it was made, and whose rows it has."""

from __future__ import annotations

from typing import Any

import torch

from frspec_cli.doctor.readings import Reading
from frspec_cli.doctor.replays import DraftSetup
from frspec_cli.doctor.rows import nearest_rows
from frspec_cli.models.identity import has_weights


def file_checks(setup: DraftSetup, reading: Reading) -> dict[str, Any]:
    """JSON values; None where the files show nothing.

    target_weights: whether the head records this target's.
    embedding_cosine: mean cosine of the head's embedding to the target's, row by row.
    nearest_rows: see `NearestRows`; of the head's own rows, under the tokens that the reading gives them.
    recorded_acceptance: the acceptance length of the training's own validation.
    """
    recorded, target = setup.recorded or {}, setup.target
    weights, acceptance = recorded.get("target_weights"), recorded.get("acceptance_length")
    embedding, cosine = setup.head.embedding_weight, None
    if embedding.shape == target.embedding.shape:
        ours, theirs = embedding.float(), target.embedding.float().to(embedding.device)
        cosine = float(torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).mean())
    nearest = nearest_rows(reading.rows, setup.lm_head.weight) if reading.own else None
    return {
        "target_weights": has_weights(target, weights) if isinstance(weights, str) and weights else None,
        "embedding_cosine": cosine,
        "nearest_rows": None if nearest is None else {**nearest.as_json(), "foreign": nearest.foreign},
        "recorded_acceptance": float(acceptance) if isinstance(acceptance, (int, float)) else None,
    }
