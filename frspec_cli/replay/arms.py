"""What a replay compares: heads, vocabularies, sizes and trees, each combination under its name in the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.options import Method, TreeConfig, refuse_unused
from frspec_cli.decoding.pipeline import Pipeline, load_pipeline
from frspec_cli.errors import UsageError, option
from frspec_cli.models.target import Target, is_hybrid
from frspec_cli.replay.options import SMALLEST_ON_CURVE, ReplayOptions
from frspec_cli.subsets.load import load_subset
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.tokens.tokenizer import load_tokenizer

Pipelines = Sequence[Sequence[Pipeline]]
"""Of each head, its pipelines with each subset; all of one target."""


@dataclass(frozen=True)
class ReplayArm:
    """One head, vocabulary and tree under its name in the tables.

    vocab: the subset, as the user named it; None for the full LM head.
    context_slots: spare rows for tokens of the text that the subset lacks; the drafter itself has none.
    full: the name of the arm with the same head and tree and the full LM head; None if it does not run.
    """

    name: str
    method: Method
    draft: str | None
    vocab: str | None
    drafter: EagleDrafter
    context_slots: int
    full: str | None


def check_branches(target: Target, trees: Sequence[TreeConfig]) -> None:
    """Raises `UsageError` for a tree with branches over a target with linear attention."""
    wide = next((tree for tree in trees if tree.beam > 1), None)
    if wide is not None and is_hybrid(target.config):
        raise UsageError(
            f"{target.name} has layers of linear attention, where no engine can verify a tree with branches "
            f"({wide.depth},{wide.beam},{wide.nodes}).",
            hint=f"Give a chain: a tree of beam 1, such as {option('tree')} 3,1,4, or {option('beams')} 1.",
        )


def load_pipelines(
    target: Target,
    options: ReplayOptions,
    *,
    drafts: Sequence[str] = (),
    vocabs: Sequence[str] = (),
    norm_output: bool | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Pipelines:
    """Every head with every subset; by default what ships for the model.

    norm_output: of every head, as in `load_head`.

    Raises as `load_pipeline` and `check_branches` do.
    """
    check_branches(target, options.trees)
    refuse_unused(options.methods, vocab=vocabs)
    k = max(options.ks, default=None)
    pipelines = []
    heads: Sequence[str | None] = drafts or [None]
    for draft in heads:
        vocab = vocabs[0] if vocabs else None
        first = load_pipeline(target, draft=draft, vocab=vocab, k=k, norm_output=norm_output, warn=warn)
        by_vocab = [first]
        for vocab in vocabs[1:]:
            tokenizer = load_tokenizer(str(target.folder))
            subset = load_subset(vocab, tokenizer=tokenizer, model_rows=target.rows, k=k, warn=warn)
            by_vocab.append(replace(first, subset=subset, vocab=vocab))
        pipelines.append(by_vocab)
    return pipelines


def make_arms(pipelines: Pipelines, options: ReplayOptions) -> list[ReplayArm]:
    """Every head x tree x method, subset and size. A name says no more than is needed to tell them apart."""
    arms = []
    for head_number, by_vocab in enumerate(pipelines, start=1):
        head = f" head {head_number}" if len(pipelines) > 1 else ""
        for tree in options.trees:
            size_of_tree = f" {tree.depth},{tree.beam},{tree.nodes}" if len(options.trees) > 1 else ""
            full = f"eagle{head}{size_of_tree}" if "eagle" in options.methods else None
            for method, vocab_number, k, slots in _variants(by_vocab, options):
                pipeline = by_vocab[vocab_number]
                drafter = pipeline.drafter(method, tree=tree, k=k)
                assert isinstance(drafter, EagleDrafter)
                size = f"@{k}" if k and (options.curve or len(options.ks) > 1) else ""
                size += f"+{slots}" if slots and len(options.context_slots) > 1 else ""
                vocab = f" vocab {vocab_number + 1}" if len(by_vocab) > 1 and method == "frspec" else ""
                arms.append(
                    ReplayArm(
                        name=method + size + vocab + head + size_of_tree,
                        method=method,
                        draft=pipeline.draft,
                        vocab=pipeline.vocab if method == "frspec" else None,
                        drafter=drafter,
                        context_slots=slots,
                        full=full if method == "frspec" else None,
                    )
                )
    return arms


def _variants(by_vocab: Sequence[Pipeline], options: ReplayOptions) -> Iterator[tuple[Method, int, int | None, int]]:
    """(method, index of the subset, k, context slots); the full LM head depends on no subset and needs no slots."""
    if "eagle" in options.methods:
        yield "eagle", 0, None, 0
    if "frspec" in options.methods:
        for vocab, pipeline in enumerate(by_vocab):
            halves = _halves(pipeline.subset) if options.curve and pipeline.subset is not None else ()
            for k in halves or options.ks or (None,):
                for slots in options.context_slots:
                    yield "frspec", vocab, k, slots


def _halves(subset: VocabularySubset) -> list[int]:
    """The subset's size and its halves, as far down as the curve goes and the forced tokens allow."""
    sizes = [subset.k]
    while sizes[-1] // 2 >= max(SMALLEST_ON_CURVE, subset.forced) and subset.metadata.get("nested", True):
        sizes.append(sizes[-1] // 2)
    return sizes
