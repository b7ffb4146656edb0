"""`frspec build-vocab`: frequency tables to vocabulary subsets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from frspec_cli import outputs
from frspec_cli.cli import complete, options
from frspec_cli.cli.output import Output
from frspec_cli.errors import UsageError, not_one_of
from frspec_cli.subsets.recipe import Recipe

if TYPE_CHECKING:
    from frspec_cli.subsets.build import Builder
    from frspec_cli.subsets.subset import VocabularySubset


def command(
    out: Annotated[str, typer.Option("--out", "-o", help="A file; with several --k a folder for subset-<k>.parquet.")],
    counts: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="COUNTS...",
            help="Frequency tables from count-freq; several are added. Default: the table that ships for --model "
            "(llama3, qwen3, gemma3, deepseek-v3, gpt-4o, gpt-oss, or a tokenizer that equals one of theirs).",
        ),
    ] = None,
    k: Annotated[
        list[int] | None,
        options.several("--k", parser=options.sizes, help="Number of tokens: --k 8192,32768 or --k 8192 --k 32768."),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="In place of --k: the fewest tokens that cover this share (0.98) of the counts."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", autocompletion=complete.models, help="The model, for its tokenizer, rows and end tokens."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            "-t",
            autocompletion=complete.models,
            help="Tokenizer the table was counted with. Default: the one recorded in it.",
        ),
    ] = None,
    mix: Annotated[
        list[str] | None,
        options.several(
            metavar="NAME=W",
            help="Give a source, a table (its file's name without .parquet) or TABLE:SOURCE the share W / (sum of W) "
            "of the mix, however much text it had. Sources without a weight are left out; a small W makes one the tail.",
        ),
    ] = None,
    script_budget: Annotated[
        list[str] | None,
        options.several(
            metavar="SCRIPT=N", help="Keep the N most frequent tokens of a script: cjk, or Unicode's name."
        ),
    ] = None,
    vocab_rows: Annotated[
        int | None, typer.Option(help="Rows of the model's embedding, if only a tokenizer is known.")
    ] = None,
    forced: Annotated[
        str, typer.Option(help="What is kept whatever its count: all (end, template and byte tokens), eos, or none.")
    ] = Recipe.forced,
    force_id: Annotated[list[int] | None, typer.Option(help="Keep this token id too; may be repeated.")] = None,
    pad: Annotated[bool, typer.Option("--pad", help="If too few tokens occur, fill up with unused ids.")] = Recipe.pad,
    multiple_of: Annotated[
        int, typer.Option(help="Round k up to a multiple of this: INT4 heads need 128.")
    ] = Recipe.multiple_of,
    shards: Annotated[
        int,
        typer.Option(
            help="Take equally many tokens from each of this many equal slices of the vocabulary, for tensor-parallel "
            "ranks that hold a slice each."
        ),
    ] = Recipe.shards,
    formats: Annotated[
        list[str] | None,
        options.several(
            "--to",
            metavar="FORMAT",
            autocompletion=complete.formats,
            help="Also write it as sglang, eagle3, ... (see export-vocab).",
        ),
    ] = None,
    force: options.Force = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Cut vocabulary subsets: the k most frequent tokens, forced ones first, ties by id.

    The first rows of a large subset are the smaller one, so one file serves all sizes (except with --script-budget
    and --shards).
    """
    counts = counts or []
    _check(k or [], coverage, formats or [], model, tokenizer)
    recipe = Recipe(
        weights=_weights(mix or []),
        budgets=_budgets(script_budget or []),
        forced=forced,
        force_ids=tuple(sorted(set(force_id or []))),
        pad=pad,
        vocabulary_rows=vocab_rows,
        multiple_of=multiple_of,
        shards=shards,
    )
    paths = _checked_paths(
        out,
        sorted({recipe.rounded(size) for size in k or [0]}),
        [*counts, model, tokenizer],
        formats or [],
        force=force,
    )
    output = Output(as_json=as_json, quiet=quiet, out=Path(next(iter(paths.values()))))
    for size in sorted(set(k or [])):
        if recipe.rounded(size) != size:
            output.say(f"k {size:,} is rounded up to {recipe.rounded(size):,}")

    from frspec_cli.subsets.build import load_builder

    builder = load_builder(counts, recipe, tokenizer=model or tokenizer, say=output.say, warn=output.warn)
    if builder.evidence.left_out:
        output.say(f"ignored (no --mix weight): {', '.join(builder.evidence.left_out)}")
    if recipe.shards > 1 and builder.rows_from == "tokenizer":
        output.warn(f"the slices are of the tokenizer's {builder.rows:,} rows; name the model's with --vocab-rows.")
    if coverage is not None:
        paths = {builder.smallest_covering(coverage): paths[0]}
    subsets = {size: builder.subset(size) for size in paths}  # all are chosen before the first is written
    with outputs.written(force=force) as done:
        rows = [_write(builder, subset, paths[size], formats or [], output) for size, subset in subsets.items()]
    _show(output, builder, rows, done)


def _checked_paths(
    out: str, ks: list[int], inputs: list[Path | str | None], formats: list[str], *, force: bool
) -> dict[int, str]:
    """Where the subset of each size goes; all that will be written is checked, other formats included."""
    from frspec_cli.subsets.build import output_paths
    from frspec_cli.subsets.exporting import check_export
    from frspec_cli.subsets.formats import WRITERS

    paths = output_paths(out, ks)
    for k, path in paths.items():
        checked = outputs.check(path, inputs=inputs, replaces=outputs.PARQUET, what="a vocabulary subset", force=force)
        paths[k] = str(checked)
        for name in formats:
            check_export(name, paths[k].removesuffix(".parquet") + WRITERS[name].suffix, inputs)
    if len(ks) > 1 and out.endswith(".parquet"):
        raise UsageError(f"--out {out} names a file, and several sizes are written into a folder.")
    return paths


def _check(ks: list[int], coverage: float | None, formats: list[str], model: str | None, tokenizer: str | None) -> None:
    from frspec_cli.subsets.formats import WRITERS

    if (coverage is None) == (not ks):
        raise UsageError("give either --k or --coverage.")
    if unknown := [name for name in formats if name not in WRITERS]:
        raise not_one_of("to", unknown[0], WRITERS)
    if model and tokenizer:
        raise UsageError("give --model or --tokenizer, not both: a model brings its tokenizer.")


def _write(builder: Builder, subset: VocabularySubset, path: str, formats: list[str], output: Output) -> dict[str, Any]:
    """Writes one subset, in other formats too. Returns its entry in --json."""
    from frspec_cli.subsets.exporting import export_subset
    from frspec_cli.subsets.formats import WRITERS

    subset.write(path)
    row: dict[str, Any] = {"out": path, "k": subset.k, "forced": subset.forced}
    row |= {name: subset.metadata[name] for name in ("padded", "coverage", "held_out", "sha256")}
    if builder.recipe.budgets:
        row["budgets"] = builder.budget_effects(subset.k)
    if builder.recipe.shards > 1:
        row["shards"] = builder.shards_effect(subset.k)
    if formats:
        stem = path.removesuffix(".parquet")
        exports = [export_subset(subset, name, stem + WRITERS[name].suffix) for name in formats]
        row["exports"] = [export.out for export in exports]
        for warning in dict.fromkeys(text for export in exports for text in export.warnings):
            output.warn(warning)
    if row["padded"]:
        output.warn(f"{row['padded']:,} of the {subset.k:,} tokens were never seen; they fill up by id.")
    return row


def _show(output: Output, builder: Builder, rows: list[dict], done: outputs.Written) -> None:
    kinds = list(builder.forced.values())
    numbers = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))) or "none"
    output.say(f"always included: {numbers}" + (f" (ids {_some_ids(builder)})" if kinds else ""))
    table = []
    for row in rows:
        interval = row["held_out"]
        held_out = f"{interval['value']:.2%} ({interval['low']:.2%} to {interval['high']:.2%})" if interval else "-"
        sizes = [f"{row[name]:,}" for name in ("k", "forced", "padded")]
        table.append([row["out"], *sizes, f"{row['coverage']:.2%}", held_out])
    output.table("", ["subset", "k", "forced", "filler", "coverage (same text)", "coverage (held out, 95% CI)"], table)
    effects = [[f"{row['k']:,}", *_effect(each)] for row in rows for each in row.get("budgets", [])]
    if effects:
        columns = ["k", "script", "budget", "its tokens counted", "covered with it", "by frequency alone"]
        how = "held out by fold" if builder.has_folds else "in sample, since the table has no folds"
        output.table(f"Script budgets, {how}", columns, effects, left=2)
    slices = [[f"{row['k']:,}", *_slices(row["shards"])] for row in rows if "shards" in row]
    if slices:
        columns = ["k", "slices", "tokens of each", "covered with them", "by frequency alone", "fullest slice then"]
        output.table("Equal slices, held out by fold", columns, slices)
    written = [path for row in rows for path in (row["out"], *row.get("exports", []))]
    output.result({"subsets": rows}, done.line(*written))


def _effect(effect: dict) -> list[str]:
    shares = [f"{effect[name]:.2%}" for name in ("coverage", "by_frequency")]
    return [effect["script"], f"{effect['rows']:,}", f"{effect['tokens']:,}", *shares]


def _slices(effect: dict) -> list[str]:
    shares = [f"{effect[name]:.2%}" if effect[name] is not None else "-" for name in ("coverage", "by_frequency")]
    return [f"{effect['shards']}", f"{effect['rows_each']:,}", *shares, f"{effect['fullest']:,}"]


def _some_ids(builder: Builder, most: int = 12) -> str:
    ids = [str(index) for index, kind in builder.forced.items() if kind != "byte"]
    return ", ".join([*ids[:most], *(["..."] if len(ids) > most else [])])


def _weights(pairs: list[str]) -> dict[str, float]:
    weights = {}
    for pair in pairs:
        name, value = _split("--mix", pair)
        try:
            weights[name] = float(value)
        except ValueError:
            raise UsageError(f"--mix {pair}: the weight must be above 0.") from None
    if len(weights) < len(pairs):
        raise UsageError("--mix names one source twice.")
    return weights


def _budgets(pairs: list[str]) -> dict[str, int]:
    from frspec_cli.subsets.scripts import check_name

    budgets = {}
    for pair in pairs:
        name, value = _split("--script-budget", pair)
        if not value.isdecimal():
            raise UsageError(f"--script-budget {pair}: the number of tokens must be a whole number above 0.")
        budgets[check_name(name)] = int(value)
    if len(budgets) < len(pairs):
        raise UsageError("--script-budget names one script twice.")
    return budgets


def _split(option: str, pair: str) -> tuple[str, str]:
    name, separator, value = pair.rpartition("=")
    if not separator or not name:
        raise UsageError(f"{option} {pair} must be NAME=NUMBER.")
    return name, value
