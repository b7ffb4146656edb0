"""Whether a table that is there is the one that a count would write: it says what it was counted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from frspec_cli.corpus.shards import Shard
from frspec_cli.corpus.streams import content_digest
from frspec_cli.counting.options import CountOptions, RunOptions
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.errors import FrspecError, option
from frspec_cli.resume import first_difference, is_there, refuse_finished, shown
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer


def check_table(out: Path, shards: list[Shard], tokenizer: str, options: CountOptions, how: RunOptions) -> None:
    """Whether the count may write to `out`: nothing is there, or what is there may be replaced.

    shards: what is counted, `how.shard` applied. They are hashed if all else is equal.
    Raises `AlreadyThere` if `out` is the table of this text, `FrspecError` if it is anything else.
    """
    if how.force or not is_there(out):
        return
    try:
        table = FrequencyTable.read(out)
    except FrspecError as error:
        refuse_finished(out, error.message.removesuffix("."), restart=how.restart)
        return
    loaded = load_tokenizer(tokenizer, options.template)
    difference = (
        _tokenizer_difference(table.metadata["tokenizer"], loaded)
        or _option_difference(table.metadata, options, how)
        or _template_difference(out, loaded, options)
        or _text_difference(table.metadata["shards"], shards)
    )
    refuse_finished(out, difference, restart=how.restart)


def _tokenizer_difference(record: dict[str, Any], loaded: LoadedTokenizer) -> str:
    now = loaded.record()
    if all(record.get(name) == value for name, value in now.items() if name != "reference"):
        return ""
    return f"its tokenizer was {record['reference']}, now it is another"


def _option_difference(metadata: dict[str, Any], options: CountOptions, how: RunOptions) -> str:
    used = metadata["encoder"].get("name")
    if how.encoder not in ("auto", used):
        return f"{option('encoder')} was {used}, now it is {how.encoder}"
    before, now = metadata["options"], options.recorded()
    if (name := first_difference(before, now)) is None:
        return ""
    was, given = (shown(values.get(name)) for values in (before, now))
    return f"{option(name)} was {was}, now it is {given}"


def _template_difference(out: Path, loaded: LoadedTokenizer, options: CountOptions) -> str:
    """The table does not say which chat template found the assistant's turns."""
    if not options.assistant_only:
        return ""
    written = out.stat().st_mtime_ns
    beside = [loaded.path.with_name(name) for name in ("tokenizer_config.json", "chat_template.jinja")]
    newer = [path.name for path in beside if path.is_file() and path.stat().st_mtime_ns > written]
    return f"the tokenizer's {newer[0]} is newer" if newer else ""


def _text_difference(records: list[dict[str, Any]], shards: list[Shard]) -> str:
    counted = {(record["path"], record.get("start", 0)): record for record in records}
    listed = {(shard.label, shard.start): shard for shard in shards}
    for key, shard in listed.items():
        if key not in counted:
            return f"it was counted without {shard.label}"
    for path, _ in counted.keys() - listed.keys():
        return f"it was counted from {path} too"
    for key, shard in listed.items():
        record = counted[key]
        if not record["sha256"]:
            return (
                f"a limit or damage ended the reading of {shard.label}, so whether it is the same text cannot be told"
            )
        if record["size"] != shard.size or record["sha256"] != content_digest(shard):
            return f"{shard.label} has changed"
    return ""
