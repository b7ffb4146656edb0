"""Makes the frequency tables that ship in data/tables, each with its card, out of tables that count-freq wrote.

    python -m benchmarks.shipped_tables --name qwen3 --tokenizer FOLDER --kinds kinds.parquet --languages languages.parquet \
        --out data/tables

`make tables` counts and calls this for every tokenizer. --kinds: text labelled by kind (SlimPajama's set names stand for kinds
here, not for origins); --languages: text labelled by language. What is shipped is the sum of both by source, without folds and
without tokens that hardly occur, which would double its size. The card's figures are held out by the folds of what comes in.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from frspec_cli.counting.merge import merge
from frspec_cli.counting.table import FOLDS, FrequencyTable
from frspec_cli.errors import FrspecError
from frspec_cli.subsets.build import Builder
from frspec_cli.subsets.coverage import CoverageRow, coverage_rows
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.recipe import Recipe
from frspec_cli.subsets.scripts import Scripts
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer

KINDS = {
    "RedPajamaCommonCrawl": "reviews-news-usenet",
    "RedPajamaC4": "technical-docs",
    "RedPajamaGithub": "code",
    "RedPajamaBook": "books",
    "RedPajamaArXiv": "papers-mathematics",
    "RedPajamaWikipedia": "encyclopaedia",
    "RedPajamaStackExchange": "questions-answers",
    "en": "books",
    "en-mh": "books",
}
"""The label of a kind in the corpus -> what is shipped under it."""
LANGUAGES = ("de", "es", "fr", "it", "ja", "ko", "pt", "ru", "zh")
OTHERS = "other-languages"
ROWS = {"llama3": 128_256, "qwen3": 151_936, "deepseek-v3": 129_280, "gpt-oss": 201_088}
"""Rows of the embedding: `vocab_size` in the config.json of every model of the family. Gemma-3's differ by size, GPT-4o's is
not public."""
HARMONY = {
    **dict.fromkeys(("<|return|>", "<|call|>", "<|endoftext|>"), "eos"),
    **dict.fromkeys(("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>"), "template"),
}
"""The control tokens of gpt-oss's chat format (Harmony), whose template does not lie beside its tokenizer."""
RAREST = 3
"""Tokens that occur less often in all of the text are left out."""
SIZES = (8192, 16384, 32768, 65536)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes NAME.parquet and NAME.md into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="the short name")
    parser.add_argument("--tokenizer", required=True, help="its folder")
    parser.add_argument("--kinds", required=True, type=Path, help="the table of text by kind")
    parser.add_argument("--languages", required=True, type=Path, help="the table of text by language")
    parser.add_argument(
        "--also",
        nargs=4,
        action="append",
        default=[],
        metavar=("NAME", "TOKENIZER", "KINDS", "LANGUAGES"),
        help="a further tokenizer that must give the same counts",
    )
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(arguments)
    tokenizer = load_tokenizer(options.tokenizer)
    whole = relabelled(options.kinds, options.languages)
    also = [
        record_of(load_tokenizer(folder), name, same_counts(whole, Path(kinds), Path(languages), name))
        for name, folder, kinds, languages in options.also
    ]
    table = shipped(whole, tokenizer, options.name, also)
    table.write(options.out / f"{options.name}.parquet", small=True)
    (options.out / f"{options.name}.md").write_text(card(whole, table, tokenizer, options.name), encoding="utf-8")


def relabelled(kinds: Path, languages: Path) -> FrequencyTable:
    """Both tables as one, its sources under the names that are shipped."""
    whole = merge([FrequencyTable.read(kinds), FrequencyTable.read(languages)], [str(kinds), str(languages)])
    counts: dict[str, np.ndarray] = {}
    for source in whole.sources:
        label = KINDS.get(source) or next((name for name in LANGUAGES if source.startswith(name)), OTHERS)
        counts[label] = counts[label] + whole.counts[source] if label in counts else whole.counts[source]
    return replace(whole, counts=counts)


def same_counts(whole: FrequencyTable, kinds: Path, languages: Path, name: str) -> int:
    """The number of tokens counted. Raises `FrspecError` unless another tokenizer's tables hold the same counts."""
    other = relabelled(kinds, languages)
    rows = min(whole.rows, other.rows)
    for source in whole.sources:
        ours, theirs = whole.counts[source], other.counts[source]
        if (ours[:, :rows] != theirs[:, :rows]).any() or ours[:, rows:].any() or theirs[:, rows:].any():
            raise FrspecError(f"{name} does not give the same counts in {source}.")
    return int(other.totals().sum())


def record_of(tokenizer: LoadedTokenizer, name: str, counted: int | np.ndarray) -> dict[str, Any]:
    """What the table says of a tokenizer, with what `RecordedTokenizer` needs where the tokenizer is not at hand.

    counted: int64 [rows], the tokens that the table spells itself; a plain number stands for none.
    """
    record = tokenizer.record() | {"reference": name, "model_rows": ROWS.get(name)}
    if name == "gpt-oss":
        forced = {tokenizer.id_of(token): kind for token, kind in HARMONY.items()}
        record["forced"] = {str(index): forced[index] for index in sorted(forced)}  # type: ignore[type-var]
    seen = np.zeros(tokenizer.highest_id + 1, dtype=np.int64) if isinstance(counted, int) else counted
    unseen = [int(index) for index in record["forced"] if not seen[int(index)]]
    spelled = zip(unseen, tokenizer.tokens_bytes(unseen), strict=True)
    holes = sorted(set(range(tokenizer.highest_id + 1)) - set(tokenizer.vocabulary))
    return record | {"holes": holes, "tokens": {str(index): content.hex() for index, content in spelled}}


def shipped(whole: FrequencyTable, tokenizer: LoadedTokenizer, name: str, also: list[dict[str, Any]]) -> FrequencyTable:
    """The table that is shipped: every count in fold 0, every token in it spelled, the rarest left out."""
    totals = whole.totals()
    kept = totals >= RAREST
    totals = np.where(kept, totals, 0)
    counts = {}
    for source, by_fold in whole.counts.items():
        counts[source] = np.zeros_like(by_fold)
        counts[source][0] = np.where(kept, by_fold.sum(axis=0), 0)
    seen = np.flatnonzero(totals).tolist()
    tokens = dict(zip(seen, tokenizer.tokens_bytes(seen), strict=True))
    metadata = whole.metadata | {
        "tokenizer": record_of(tokenizer, name, totals),
        "text": sentence(whole),
        **({"also": also} if also else {}),
    }
    return FrequencyTable(counts, metadata, tokens=tokens)


def sentence(whole: FrequencyTable) -> str:
    """What was counted, as the command line says it when it takes the table."""
    shares = _shares(whole)
    english = sum(share for source, share in shares.items() if source in KINDS.values())
    largest = sorted((source for source in shares if source in LANGUAGES), key=lambda source: -shares[source])
    return (
        f"{english:.0%} of its tokens are mostly English (film reviews, news, Usenet, technical documentation, papers and "
        "mathematics, code, questions and answers, encyclopaedia, dictionaries, Bibles), the rest other languages (most of "
        f"{', '.join(largest)}: encyclopaedia, documentation, Bibles); no chat, little code; not SlimPajama."
    )


def _rare(table: FrequencyTable) -> float:
    totals = table.totals()
    return float(totals[totals < RAREST].sum() / totals.sum())


def _shares(table: FrequencyTable) -> dict[str, float]:
    total = sum(int(counts.sum()) for counts in table.counts.values())
    return {source: int(counts.sum()) / total for source, counts in sorted(table.counts.items())}


def card(whole: FrequencyTable, table: FrequencyTable, tokenizer: LoadedTokenizer, name: str) -> str:
    """The card: what text, what k tokens cover of text held out, for what it will not hold, how to count again."""
    record = table.metadata["tokenizer"]
    builder = Builder([NamedTable(name, whole, "")], tokenizer, Recipe(vocabulary_rows=ROWS.get(name)))
    sizes = [k for k in SIZES if k < int((whole.totals() > 0).sum())]
    ids = {k: [builder.choose(k, without_fold=fold).token_ids for fold in range(FOLDS)] for k in sizes}
    rows = coverage_rows(ids, whole.counts, Scripts.of(tokenizer, whole.rows))
    kinds = list(record["forced"].values())
    forced = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    also = [other["reference"] for other in table.metadata.get("also", [])]
    lines = [
        f"# Frequency table of {name}",
        "",
        f"`frspec build-vocab --model {name} --k 32768 --out subset.parquet` takes this table where none is named.",
        "",
        f"- Tokenizer: {record['size']:,} tokens, fingerprint `{record['fingerprint'][:16]}`, rows of the model: "
        f"{f'{rows_:,}' if (rows_ := record['model_rows']) else 'not known (say with --vocab-rows)'}.",
        *([f"- The same counts, checked token by token: {', '.join(also)}."] if also else []),
        f"- Counted: {whole.metadata['tokens']:,} tokens in {whole.metadata['documents']:,} documents, "
        f"{whole.metadata['bytes'] / 1e6:,.0f} MB of text, {int((whole.totals() > 0).sum()):,} distinct tokens.",
        f"- Forced in by default: {forced}.",
        f"- To keep it small, tokens that occur fewer than {RAREST} times are left out ({_rare(whole):.3%} of the text), and",
        "  so are the folds: what is built from it shows no held-out figures of its own; those below were measured before.",
        "- Every token in it is spelled, so that no tokenizer is needed; of the others only the forced ones are.",
        "",
        "## The text",
        "",
        f"{table.metadata['text'][0].upper()}{table.metadata['text'][1:]}",
        "",
        "The labels name kinds of text and languages, not a published corpus, and no ranking in here is SlimPajama's.",
        "",
        "## What k tokens cover of text that they were not chosen from",
        "",
        "Each tenth of the documents is covered by tokens chosen from the other nine.",
        "",
        *_table(rows, sizes),
        "",
        "## For what it will not hold",
        "",
        "- Scripts with low shares above, and languages that are not in the list: give them rows with `--script-budget`",
        "  (`cjk=8192`), or count text in them.",
        "- Code, tool calls, JSON and reasoning traces: there is little or none of it here.",
        "- What a model answers: a subset counted on the target's own answers covers more of them than one from the web",
        "  (`frspec collect`, then `frspec count-freq ANSWERS --assistant-only`).",
        "",
        "## On your own text",
        "",
        "    frspec count-freq TEXT... --tokenizer MODEL --out counts.parquet",
        "    frspec build-vocab counts.parquet --model MODEL --k 32768 --out subset.parquet",
        "    frspec coverage subset.parquet --on TEXT",
        "",
        "Made by `make tables` (benchmarks/shipped_tables.py). The texts of the tokens are the tokenizer's, under its makers' "
        "terms.",
        "",
    ]
    return "\n".join(lines)


def _table(rows: Sequence[CoverageRow], sizes: Sequence[int]) -> list[str]:
    """All, every source, and the scripts with at least a hundredth of a percent of the tokens."""
    cells = {(row.source, row.script, row.k): row for row in rows}
    total = cells["all", "all", sizes[0]].tokens
    lines = [f"| | tokens | {' | '.join(f'k = {k:,}' for k in sizes)} |", f"|---|{'---:|' * (len(sizes) + 1)}"]
    for source, script in dict.fromkeys((row.source, row.script) for row in rows):
        first = cells[source, script, sizes[0]]
        if first.tokens < total / 10_000:
            continue
        label = "**all**" if source == script == "all" else f"script {script}" if source == "all" else source
        shares = [f"{cells[source, script, k].coverage:.2%}" for k in sizes]
        lines.append(f"| {label} | {first.tokens:,} | {' | '.join(shares)} |")
    return lines


if __name__ == "__main__":
    main()
