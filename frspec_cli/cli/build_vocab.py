"""`frspec build-vocab`: frequency tables to vocabulary subsets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frspec_cli import outputs
from frspec_cli.cli import options
from frspec_cli.cli.output import Output
from frspec_cli.errors import FrspecError, UsageError

if TYPE_CHECKING:
    from frspec_cli.subsets.build import Builder, Recipe
    from frspec_cli.subsets.mix import NamedTable
    from frspec_cli.tokens.tokenizer import LoadedTokenizer


def command(
    counts: Annotated[
        list[Path], typer.Argument(metavar="COUNTS...", help="Frequency tables from count-freq; several are added.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="A file; with several --k a folder for subset-<k>.parquet.")],
    k: Annotated[list[int] | None, typer.Option("--k", help="Number of tokens; may be given several times.")] = None,
    coverage: Annotated[
        float | None,
        typer.Option(help="In place of --k: the fewest tokens that cover this share (0.98) of the counts."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model, for its tokenizer, rows and end tokens.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The tokenizer that counted. Default: the one recorded in the table.")
    ] = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=W",
            help="Give a source, a table (its file's name without .parquet) or TABLE:SOURCE the share W / (sum of W) "
            "of the mix, however much text it had. Sources without a weight are left out; a small W makes one the tail.",
        ),
    ] = None,
    script_budget: Annotated[
        list[str] | None,
        typer.Option(metavar="SCRIPT=N", help="Keep the N most frequent tokens of a script: cjk, or Unicode's name."),
    ] = None,
    vocab_rows: Annotated[
        int | None, typer.Option(help="Rows of the model's embedding, where only a tokenizer is known.")
    ] = None,
    forced: Annotated[
        str, typer.Option(help="What is kept whatever its count: all (end, template and byte tokens), eos, or none.")
    ] = "all",
    force_id: Annotated[list[int] | None, typer.Option(help="Keep this token id too; may be repeated.")] = None,
    pad: Annotated[
        bool, typer.Option("--pad", help="Fill up with unseen tokens by id where too few were seen.")
    ] = False,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="Also write it as sglang, eagle3, ... (see export-vocab).")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Cut vocabulary subsets: the k most frequent tokens, forced ones first, ties by id.

    The first rows of a large subset are the smaller one, so one file serves all sizes (except with --script-budget).
    """
    _check(k or [], coverage, forced, formats or [], model, tokenizer)
    recipe = _recipe(mix or [], script_budget or [], forced, force_id or [], pad, vocab_rows)
    paths = _checked_paths(out, sorted(set(k or [0])), [*counts, model, tokenizer], formats or [])
    output = Output(as_json=as_json, quiet=quiet, out=Path(next(iter(paths.values()))))
    builder = _builder(counts, model or tokenizer, recipe, output)
    if not k:
        paths = {builder.smallest_covering(coverage or 1.0): paths[0]}
    _write(builder, paths, formats or [], output)


def _checked_paths(out: str, ks: list[int], inputs: list[Path | str | None], formats: list[str]) -> dict[int, str]:
    """Where the subset of each size goes; all that will be written is checked, other formats included."""
    from frspec_cli.subsets.build import output_paths
    from frspec_cli.subsets.exporting import check_export
    from frspec_cli.subsets.formats import WRITERS

    paths = output_paths(out, ks)
    for k, path in paths.items():
        paths[k] = str(outputs.check(path, inputs=inputs, replaces=outputs.PARQUET, what="a vocabulary subset"))
        for name in formats:
            check_export(name, paths[k].removesuffix(".parquet") + WRITERS[name].suffix, inputs)
    return paths


def _check(
    ks: list[int], coverage: float | None, forced: str, formats: list[str], model: str | None, tokenizer: str | None
) -> None:
    from frspec_cli.subsets.build import FORCED_KINDS, is_share
    from frspec_cli.subsets.formats import WRITERS

    if (coverage is None) == (not ks):
        raise UsageError("give either --k or --coverage.")
    if coverage is not None and not is_share(coverage):
        raise UsageError(f"--coverage {coverage} is no share: it must be above 0 and at most 1, such as 0.98.")
    if any(each < 1 for each in ks):
        raise UsageError("--k must be at least 1.")
    if forced not in FORCED_KINDS:
        raise UsageError(f"--forced {forced} is none of {', '.join(FORCED_KINDS)}.")
    if unknown := [each for each in formats if each not in WRITERS]:
        raise UsageError(f"--format {unknown[0]} is none of {', '.join(WRITERS)}.")
    if model and tokenizer:
        raise UsageError("give --model or --tokenizer, not both: a model brings its tokenizer.")


def _recipe(
    mix: list[str], budgets: list[str], forced: str, force_ids: list[int], pad: bool, vocab_rows: int | None
) -> Recipe:
    from frspec_cli.subsets.build import Recipe

    return Recipe(
        weights=_weights(mix),
        budgets=_budgets(budgets),
        forced=forced,
        force_ids=tuple(sorted(set(force_ids))),
        pad=pad,
        vocabulary_rows=vocab_rows,
    )


def _builder(counts: list[Path], tokenizer: str | None, recipe: Recipe, output: Output) -> Builder:
    from frspec_cli.subsets.build import Builder
    from frspec_cli.subsets.mix import NamedTable

    tables = [NamedTable.read(path) for path in counts]
    builder = Builder(tables, _tokenizer(tables, tokenizer), recipe, warn=output.warn)
    if builder.evidence.left_out:
        output.say(f"left out, since --mix gives them no weight: {', '.join(builder.evidence.left_out)}")
    return builder


def _write(builder: Builder, paths: dict[int, str], formats: list[str], output: Output) -> None:
    from frspec_cli.subsets.exporting import export_subset
    from frspec_cli.subsets.formats import WRITERS

    subsets = {each: builder.subset(each) for each in paths}  # all are chosen before the first is written
    rows = []
    for each, subset in subsets.items():
        subset.write(paths[each])
        row = {"out": paths[each], "k": each, "forced": subset.forced}
        row |= {name: subset.metadata[name] for name in ("padded", "coverage", "held_out", "sha256")}
        if builder.recipe.budgets:
            row["budgets"] = builder.budget_effects(each)
        if formats:
            stem = paths[each].removesuffix(".parquet")
            exports = [export_subset(subset, name, stem + WRITERS[name].suffix) for name in formats]
            row["exports"] = [export.out for export in exports]
            for warning in dict.fromkeys(text for export in exports for text in export.warnings):
                output.warn(warning)
        rows.append(row)
        if subset.metadata["padded"]:
            output.warn(f"{subset.metadata['padded']} of the {each} tokens were never seen; they fill up by id.")
    _show(output, builder, rows)


def _show(output: Output, builder: Builder, rows: list[dict]) -> None:
    kinds = list(builder.forced.values())
    named = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))) or "none"
    output.say(f"forced in: {named}" + (f" (ids {', '.join(map(str, _few(builder)))})" if kinds else ""))
    table = []
    for row in rows:
        interval = row["held_out"]
        held_out = f"{interval['value']:.2%} ({interval['low']:.2%} to {interval['high']:.2%})" if interval else "-"
        numbers = [f"{row[name]:,}" for name in ("k", "forced", "padded")]
        table.append([row["out"], *numbers, f"{row['coverage']:.2%}", held_out])
    output.table("", ["subset", "k", "forced", "padded", "covers", "held out by fold (95 %)"], table)
    effects = [[f"{row['k']:,}", *_effect(each)] for row in rows for each in row.get("budgets", [])]
    if effects:
        columns = ["k", "script", "budget", "its tokens counted", "covered with it", "by frequency alone"]
        output.table("Script budgets, held out by fold", columns, effects, left=2)
    written = [path for row in rows for path in (row["out"], *row.get("exports", []))]
    output.result({"subsets": rows}, f"wrote {', '.join(written)}")


def _effect(effect: dict) -> list[str]:
    shares = [f"{effect[name]:.2%}" if effect[name] is not None else "-" for name in ("coverage", "by_frequency")]
    return [effect["script"], f"{effect['rows']:,}", f"{effect['tokens']:,}", *shares]


def _few(builder: Builder, most: int = 12) -> list[int | str]:
    named = [index for index, kind in builder.forced.items() if kind != "byte"]
    return [*named[:most], *(["..."] if len(named) > most else [])]


def _tokenizer(tables: list[NamedTable], name: str | None) -> LoadedTokenizer:
    from frspec_cli.tokens.tokenizer import load_tokenizer

    if name is not None:
        return load_tokenizer(name)
    recorded = tables[0].table.metadata["tokenizer"]["reference"]
    try:
        return load_tokenizer(recorded)
    except FrspecError as error:
        raise FrspecError(
            f"the tokenizer that counted {tables[0].name}, {recorded}, cannot be loaded: {error.message}",
            hint="Say where it is with --tokenizer, or --model.",
        ) from None


def _weights(pairs: list[str]) -> dict[str, float]:
    weights = {}
    for pair in pairs:
        name, value = _split("--mix", pair)
        try:
            weights[name] = float(value)
        except ValueError:
            weights[name] = 0.0
        if not 0 < weights[name] < float("inf"):
            raise UsageError(f"--mix {pair}: the weight must be above 0.", hint="To leave a source out, don't name it.")
    if len(weights) < len(pairs):
        raise UsageError("--mix names one source twice.")
    return weights


def _budgets(pairs: list[str]) -> dict[str, int]:
    from frspec_cli.subsets.scripts import check_name

    budgets = {}
    for pair in pairs:
        name, value = _split("--script-budget", pair)
        if not value.isdecimal() or int(value) < 1:
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
