"""Opens what coverage is measured on: a frequency table, or text and answers that are counted on the spot."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from frspec_cli.corpus.jsonl import first_json
from frspec_cli.errors import FrspecError
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.shipped_tables import short_name, table_path


def load_eval_table(
    path: str,
    tokenizer: Callable[[], str],
    *,
    assistant_only: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> NamedTable:
    """Reads a table, which a short name may mean too, or counts a text or answers file; what was counted has the sha256 "".

    tokenizer: gives the name of the tokenizer to count with; called only if needed.
    assistant_only: of conversations, count what the assistant said.
    Raises `FrspecError` as reading and counting do.
    """
    if (short := short_name(path)) is not None:
        return NamedTable.read(table_path(short))
    return NamedTable.read(path) if is_table(path) else _count(path, tokenizer(), say, assistant_only=assistant_only)


def is_table(path: str) -> bool:
    """Whether `path` is a parquet file that frspec wrote as a frequency table (parquet may hold text, too)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException, ValueError):
        return False
    return b"frspec" in (schema.metadata or {}) and "fold" in schema.names


def holds_answers(path: str) -> bool:
    """Whether the first line of a file is a target's recorded answer: then only what was answered is counted."""
    record = first_json(path) if Path(path).is_file() else None
    return isinstance(record, dict) and "response_token_ids" in record


def _count(path: str, tokenizer: str, say: Callable[[str], None], *, assistant_only: bool) -> NamedTable:
    from frspec_cli.corpus.sources import find_shards
    from frspec_cli.counting.count import count_corpus
    from frspec_cli.counting.options import CountOptions
    from frspec_cli.progress import Callbacks

    answers = holds_answers(path)
    what = "the answers in " if answers else "what the assistant said in " if assistant_only else ""
    say(f"counting {what}{path} ...")
    shards = find_shards([path], say=say)
    with tempfile.TemporaryDirectory(prefix="frspec-") as folder:
        options = CountOptions(assistant_only=answers or assistant_only)
        out = Path(folder) / "counts.parquet"
        table = count_corpus(shards, tokenizer, out, options=options, callbacks=Callbacks(say=say)).table
    if not table.metadata["tokens"]:
        raise FrspecError(f"{path} holds no tokens.")
    return NamedTable(Path(path).name.split(".")[0] or path, table, "")
