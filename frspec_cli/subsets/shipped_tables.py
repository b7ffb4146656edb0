"""The frequency tables that ship with frspec: found by a short name, as people write it, or by a tokenizer that is at hand."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path

from frspec_cli.counting.table import FrequencyTable
from frspec_cli.errors import FrspecError, option
from frspec_cli.models.embedded import EMBEDDED
from frspec_cli.models.shipped import data_folder, shipped_for
from frspec_cli.subsets.tokenizer_check import same_counts
from frspec_cli.tokens.recorded import RecordedTokenizer
from frspec_cli.tokens.split_rules import differing_parts
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer

FAMILIES = {
    "llama3": r"(meta-)?llama-?3",
    "qwen3": r"qwen-?3",
    "gemma3": r"gemma-?3",
    "deepseek-v3": r"deepseek-?v3",
    "gpt-4o": r"gpt-?4o|o200k(-base)?",
    "gpt-oss": r"gpt-?oss|o200k-harmony",
}
"""Short name -> how it may be written, in lower case with hyphens."""
_VARIANT = r"(-(\d+(\.\d+)?[bmt]|a\d+b|instruct|base|chat|it|pt|mini|thinking|hf|\d{4}))*"
"""What may follow: sizes and kinds of a family, which share its tokenizer. A further number (3.1, 3.5) is another family."""
_TABLE_OF = {"gpt-oss": "gpt-4o"}


def short_name(name: str) -> str | None:
    """The table's short name that `name` means (qwen3 for Qwen3-8B); None for anything else, such as a path that exists."""
    if name in EMBEDDED or Path(name).expanduser().exists():
        return None
    plain = name.lower().replace("_", "-").replace(" ", "-")
    return next((short for short, spelled in FAMILIES.items() if re.fullmatch(f"({spelled}){_VARIANT}", plain)), None)


def table_path(short: str) -> Path:
    """The table of a short name. Raises `FrspecError` if it is not installed."""
    path = data_folder() / "tables" / f"{_TABLE_OF.get(short, short)}.parquet"
    if not path.is_file():
        raise FrspecError(
            f"the frequency table of {short} is not installed.", hint="It is in data/tables of a checkout of frspec."
        )
    return path


def recorded_by_name(short: str) -> RecordedTokenizer:
    """The tokenizer of a short name, as its table remembers it. Raises `FrspecError` if it is not installed."""
    path = table_path(short)
    return next(each for each in FrequencyTable.read_tokenizers(path) if each.reference == short)


def named_tokenizer(name: str) -> LoadedTokenizer | RecordedTokenizer:
    """A tokenizer that is at hand, or the one that a shipped table remembers under that name.

    Raises `FrspecError` as `load_tokenizer` does.
    """
    short = short_name(name)
    return load_tokenizer(name) if short is None else recorded_by_name(short)


def find_table(name: str, *, warn: Callable[[str], None]) -> tuple[Path, LoadedTokenizer | RecordedTokenizer]:
    """The shipped table for a model or tokenizer of that name, and the tokenizer.

    warn: called with a sentence if the tokenizer at hand is not the one that counted, but gives the same counts.
    Raises `FrspecError` if none ships for it, naming the nearest names or what differs.
    """
    if (short := short_name(name)) is not None:
        return table_path(short), recorded_by_name(short)
    if name in EMBEDDED and (counts := shipped_for(name).counts) is not None:
        return counts, load_tokenizer(name)
    tokenizer = _load(name)
    different: list[str] = []
    for path in sorted((data_folder() / "tables").glob("*.parquet")):
        recorded = FrequencyTable.read_tokenizers(path)
        if same_counts(recorded, tokenizer, name=f"the table {path.stem}", warn=warn):
            return path, tokenizer
        if tokenizer.fingerprint == recorded[0].fingerprint:
            parts = ", ".join(differing_parts(recorded[0].identity, tokenizer.identity))
            different.append(f"; it has the vocabulary of {path.stem} and splits text differently (in {parts})")
    raise FrspecError(
        f"no frequency table ships for the tokenizer of {name}{''.join(different)}.",
        hint="Count text with it: frspec count-freq SOURCE --tokenizer T --out counts.parquet. Tables ship for "
        f"{', '.join(FAMILIES)}.",
    )


def _load(name: str) -> LoadedTokenizer:
    try:
        return load_tokenizer(name)
    except FrspecError as error:
        short = short_name(name.rpartition("/")[2])
        if short is not None:  # owner/name that cannot be had
            hint = f"{option('model')} {short} takes the table that ships, which needs no tokenizer."
            raise FrspecError(error.message, hint=hint) from None
        if "/" in name:
            raise
        known = [*FAMILIES, *EMBEDDED]
        near = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Tables ship for {', '.join(FAMILIES)}."
        raise FrspecError(error.message, hint=hint) from None
