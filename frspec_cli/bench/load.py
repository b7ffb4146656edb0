"""From what a user names to the pipeline that a benchmark or a profile runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from frspec_cli.bench.options import BenchOptions, ProfileOptions
from frspec_cli.bench.untrained import NAME, with_untrained_head
from frspec_cli.decoding.options import refuse_unused
from frspec_cli.decoding.pipeline import Pipeline, load_pipeline
from frspec_cli.errors import UsageError, option
from frspec_cli.heads.options import yes_or_no
from frspec_cli.models.shipped import DEFAULT_K
from frspec_cli.models.target import load_target


def refuse_untrained(options: BenchOptions, draft: str | None) -> None:
    """Raises `UsageError` if an untrained head is to be benchmarked."""
    if draft == NAME and not isinstance(options, ProfileOptions):
        raise UsageError(
            f"{option('draft')} {NAME} is an untrained head, whose texts mean nothing: only a profile takes it."
        )


def load_bench_pipeline(
    options: BenchOptions,
    *,
    model: str,
    draft: str | None = None,
    vocab: str | None = None,
    norm_output: str | None = None,
    device: str | None = None,
    dtype: str = "bfloat16",
    compiled: bool = False,
    warn: Callable[[str], None] = lambda text: None,
) -> Pipeline:
    """The target with the head and the subset that the methods read; a method that reads neither loads neither.

    draft: `random` is an untrained head, for a profile only.
    norm_output: "yes" or "no", whatever the head's config says; None to read it there.
    Raises `UsageError` for a head or a subset that none of the methods reads.
    """
    refuse_unused(options.methods, draft=draft, vocab=vocab, norm_output=norm_output)
    normed = yes_or_no(norm_output)
    refuse_untrained(options, draft)
    untrained = draft == NAME
    drafts = bool({"eagle", "frspec"} & set(options.methods))
    pipeline = load_pipeline(
        load_target(model, device=device, dtype=dtype),
        draft=None if untrained else draft,
        vocab=vocab,
        k=max(options.ks, default=None),
        norm_output=normed,
        compiled=compiled,
        drafts=drafts,
        warn=warn,
    )
    if untrained and drafts:
        pipeline = with_untrained_head(pipeline, k=max(options.ks, default=DEFAULT_K), seed=options.seed)
    return pipeline if "frspec" in options.methods else replace(pipeline, subset=None, vocab=None)
