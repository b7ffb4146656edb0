"""From text to draft vocabularies: count, cut, measure, export, import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from frspec_cli.api.common import CALLBACKS, PathLike
from frspec_cli.corpus.options import Selection
from frspec_cli.counting.options import CountOptions, RunOptions
from frspec_cli.errors import AlreadyThere
from frspec_cli.progress import Callbacks
from frspec_cli.subsets.recipe import Recipe

if TYPE_CHECKING:
    from frspec_cli.counting.table import FrequencyTable
    from frspec_cli.subsets.coverage import CoverageRow
    from frspec_cli.subsets.exporting import Export
    from frspec_cli.subsets.subset import VocabularySubset


def count_freq(
    sources: PathLike | Sequence[PathLike],
    *,
    tokenizer: PathLike,
    out: PathLike,
    options: CountOptions = CountOptions(),
    selection: Selection = Selection(),
    how: RunOptions = RunOptions(),
    restart: bool = False,
    force: bool = False,
    callbacks: Callbacks = CALLBACKS,
) -> FrequencyTable:
    """Counts how often each token occurs in files, folders, globs, URLs or datasets, into a table at `out`.

    Killed and called again alike, it resumes. `metadata` of the table says what was skipped and why.

    >>> table = count_freq("text/", tokenizer="model/", out="counts.parquet")
    >>> table.metadata["documents"], table.metadata["tokens"]
    (2, 75)

    tokenizer: a folder, a tokenizer.json, a short name, or owner/name on the hub.
    selection: which files of a folder are read.
    how: what does not decide the counts: workers, encoder, engine.
    """
    from frspec_cli.corpus.sources import find_shards
    from frspec_cli.counting.count import count_corpus
    from frspec_cli.counting.table import FrequencyTable

    how = replace(how, restart=restart, force=force)
    named = [sources] if isinstance(sources, (str, Path)) else sources
    shards = find_shards([str(each) for each in named], selection, say=callbacks.say)
    try:
        return count_corpus(shards, str(tokenizer), out, options=options, how=how, callbacks=callbacks).table
    except AlreadyThere:
        return FrequencyTable.read(out)


def build_vocab(
    counts: PathLike | Sequence[PathLike] = (),
    *,
    k: int,
    model: PathLike | None = None,
    recipe: Recipe = Recipe(),
    out: PathLike | None = None,
    force: bool = False,
    callbacks: Callbacks = CALLBACKS,
) -> VocabularySubset:
    """Cuts the subset of the k most frequent tokens, forced ones first, and writes it if `out` is given.

    >>> subset = build_vocab(model="qwen3", k=8192, out="qwen3.parquet")  # from the table that ships
    >>> subset.k, subset.forced, f"{subset.metadata['coverage']:.1%}"
    (8192, 8, '80.4%')
    >>> subset.prefix(4096).k  # its first rows are the smaller subset
    4096

    counts: frequency tables; none for the one that ships for `model`.
    model: a model or tokenizer; None for the tokenizer that the table names.
    recipe: mixes, script budgets, what is forced in.
    """
    from frspec_cli.subsets.build import load_builder

    tables = [Path(each) for each in ([counts] if isinstance(counts, (str, Path)) else counts)]
    name = None if model is None else str(model)
    builder = load_builder(tables, recipe, tokenizer=name, say=callbacks.say, warn=callbacks.warn)
    subset = builder.subset(recipe.rounded(k))
    if out is not None:
        _write_subset(subset, out, inputs=[*tables, model], force=force)
    return subset


def coverage(
    subset: PathLike,
    on: PathLike,
    *,
    k: int | Sequence[int] = (),
    tokenizer: PathLike | None = None,
    assistant_only: bool = False,
    callbacks: Callbacks = CALLBACKS,
) -> list[CoverageRow]:
    """What a subset covers of a table, of text or of recorded answers: all of it, then by source and by script.

    On the table that it was chosen from, the figures are held out by fold.

    >>> rows = coverage("subset.parquet", "counts.parquet", k=[280, 300])
    >>> [(row.k, row.tokens, round(row.coverage, 3)) for row in rows if row.source == row.script == "all"]
    [(280, 75, 0.587), (300, 75, 0.813)]

    k: sizes, each the subset's first k rows; () for all of it.
    tokenizer: in place of the one that table or subset names.
    assistant_only: of conversations, count what the assistant said.
    """
    from frspec_cli.subsets.coverage_session import CoverageSession

    session = CoverageSession(
        tokenizer=None if tokenizer is None else str(tokenizer),
        assistant_only=assistant_only,
        say=callbacks.say,
        warn=callbacks.warn,
    )
    tables = session.open([str(on)], [Path(subset)])
    evaluation = session.evaluate(Path(subset), tables[0], tables)
    sizes = [k] if isinstance(k, int) else sorted(set(k))
    return evaluation.rows(sizes or [evaluation.subset.k], session.scripts(evaluation.table))


def export_vocab(
    subset: PathLike,
    out: PathLike,
    *,
    to: str,
    k: int | None = None,
    order: str | None = None,
    vocab_rows: int | None = None,
    force: bool = False,
) -> Export:
    """Writes a subset in another project's format, with a manifest beside it.

    >>> export = export_vocab("subset.parquet", "hot_tokens.pt", to="sglang", k=280)
    >>> len(export.ids), export.usage.split()[:3]
    (280, ['python', '-m', 'sglang.launch_server'])

    to: fr-spec, sglang, eagle3, speculators, txt and others, as `frspec export-vocab --help` lists them.
    k: the subset's first k rows.
    order: rank or id, if the format leaves the choice.
    vocab_rows: rows of the target's embedding.
    """
    from frspec_cli import outputs
    from frspec_cli.subsets.exporting import check_export, export_subset
    from frspec_cli.subsets.load import load_subset

    path = check_export(to, out, [subset])
    with outputs.written(force=force):
        return export_subset(load_subset(subset, k=k), to, path, order=order, vocab_rows=vocab_rows)


def import_vocab(
    file: PathLike,
    *,
    tokenizer: PathLike,
    out: PathLike | None = None,
    counts: PathLike | None = None,
    read_as: str | None = None,
    vocab_rows: int | None = None,
    dedupe: bool = False,
    force: bool = False,
    callbacks: Callbacks = CALLBACKS,
) -> VocabularySubset:
    """Reads another project's draft vocabulary as a subset, and writes it if `out` is given. No code in the file is run.

    >>> import_vocab("tokens.pt", tokenizer="model/").token_ids[:3].tolist()
    [0, 1, 222]

    counts: a frequency table that ranks the ids, for a file that has lost its ranking.
    read_as: ids, offsets or ranges, if the file could hold more than one.
    vocab_rows: rows of the target's embedding.
    dedupe: keep the first of repeated ids.
    """
    from frspec_cli.subsets.formats import read_foreign
    from frspec_cli.subsets.importing import import_list
    from frspec_cli.subsets.mix import NamedTable
    from frspec_cli.tokens.tokenizer import load_tokenizer

    imported = import_list(
        read_foreign(file, read_as=read_as),
        load_tokenizer(str(tokenizer)),
        vocab_rows=vocab_rows,
        dedupe=dedupe,
        counts=None if counts is None else NamedTable.read(counts),
    )
    for warning in imported.warnings:
        callbacks.warn(warning)
    if out is not None:
        _write_subset(imported.subset, out, inputs=[file, tokenizer, counts], force=force)
    return imported.subset


def _write_subset(subset: VocabularySubset, out: PathLike, *, inputs: Sequence[PathLike | None], force: bool) -> None:
    from frspec_cli import outputs

    path = outputs.check(out, inputs=inputs, replaces=outputs.PARQUET, what="a vocabulary subset", force=force)
    with outputs.written(force=force):
        subset.write(path)
