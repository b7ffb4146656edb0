"""What tells two pipelines apart: a stopped run resumes only with the model, head and subset that it began with."""

from __future__ import annotations

import hashlib

import torch

from frspec_cli import storage
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.heads.draft_head import DraftHead
from frspec_cli.models.identity import target_identity


def pipeline_identity(pipeline: Pipeline) -> dict[str, str | None]:
    """Digests of the parts of a pipeline, by the names that a user knows them by; None for a part that is absent."""
    head, subset = pipeline.head, pipeline.subset
    return {
        "model's weights": target_identity(pipeline.target),
        "draft head": None if head is None else _head_identity(head),
        "subset": None if subset is None else storage.sha256_ids(subset.token_ids),
    }


@torch.inference_mode()
def _head_identity(head: DraftHead) -> str:
    """24 hex digits over at most 4,096 values of every tensor of the head, and how it is read if that is not the usual way."""
    digest = hashlib.sha256()
    for name, tensor in sorted(head.state_dict().items()):
        values = tensor.flatten()[:: max(1, tensor.numel() // 4096)]
        digest.update(name.encode() + values.double().cpu().numpy().tobytes())
    config = head.config
    if config.norm_output or config.norm_before_residual or config.window:  # what no tensor shows
        digest.update(repr((config.norm_output, config.norm_before_residual, config.window)).encode())
    return digest.hexdigest()[:24]
