"""How commands show a frequency table that they wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from frspec_cli.cli.output import Output

if TYPE_CHECKING:
    from frspec_cli.counting.table import FrequencyTable


def show_skipped(output: Output, table: FrequencyTable, examples: list[tuple[str, int, str, str]]) -> None:
    """Says what was skipped, why and where."""
    from frspec_cli.counting.run import in_words, too_long_advice

    skipped = table.metadata["skipped"]
    if total := sum(skipped.values()):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        output.say(f"skipped {total:,} of {table.metadata['lines']:,} records: {reasons}.")
    if partly := table.metadata.get("partly_skipped", 0):
        turns = ", ".join(f"{count:,} {reason}" for reason, count in table.metadata["skipped_turns"].items())
        output.say(f"in {partly:,} more records, some assistant turns were skipped; turns skipped in total: {turns}.")
    for example in sorted(examples, key=lambda example: example[2] == "empty")[:8]:
        output.say(f"  {in_words(example)}")
    if advice := too_long_advice(table.metadata["shards"]):
        output.say(advice)
    for shard in table.metadata["shards"]:
        if "broken" in shard:
            output.warn(f"left out: {shard['broken']}")


def show_table(output: Output, out: Path, table: FrequencyTable, seconds: float, *, done: str = "") -> None:
    """The figures of a table that was written: stability for people, one object for programs.

    done: what was done, in place of the rate at which text was counted.
    """
    metadata = table.metadata
    rows = [
        (
            f"{int(k):,}",
            f"{row['coverage']:.2%} ({row['low']:.2%} to {row['high']:.2%})",
            f"{row['expected_loss']:.3%}",
            f"{row['kept']:.1%}",
        )
        for k, row in metadata["stability"].items()
    ]
    if rows:
        headers = ("top k", "held-out coverage (95% CI)", "expected coverage loss on new text", "rank stability")
        output.table("", headers, rows)
        output.say(_enough(*list(metadata["stability"].items())[-1]))
    value: dict[str, Any] = {"out": str(out), "tokenizer": metadata["tokenizer"]["reference"]}
    value |= {"encoder": metadata["encoder"]["name"]}
    value |= {name: metadata[name] for name in ("lines", "documents", "skipped", "tokens", "bytes")}
    value |= {name: metadata[name] for name in ("skipped_turns", "partly_skipped") if name in metadata}
    value |= {"seconds": round(seconds, 3), "stability": metadata["stability"]}
    rate = _amount(metadata["bytes"] / max(seconds, 1e-9))
    how = f"in {seconds:.1f} s ({rate}/s, encoder: {metadata['encoder']['name']}) -> {out}"
    size = f"{metadata['documents']:,} documents, {metadata['tokens']:,} tokens, {_amount(metadata['bytes'])}"
    output.result(value, f"{size}; {done}" if done else f"{size} {how}")


_LITTLE, _HARDLY = 0.01, 0.001
"""Expected coverage losses: with more, too little was counted; with less, more text would hardly change the subset."""


def _enough(k: str, row: dict[str, Any]) -> str:
    """What the figures mean: what the subset would hold of other text, and whether enough was counted."""
    loss = row["expected_loss"]
    more = f", and about {100 * loss:.1f} points more if they were chosen from far more text"
    if loss < _HARDLY:
        more = "; far more text would hardly change that"
    advice = ": count more" if loss >= _LITTLE else ""
    return f"The {int(k):,} most frequent tokens would hold {row['coverage']:.1%} of other text of this kind{more}{advice}."


def _amount(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
