"""Texts that hold a tokenizer's own tokens as strings: counted as text, their pieces would head the table."""

from __future__ import annotations

from itertools import islice

from frspec_cli.corpus.documents import Document, Fields
from frspec_cli.corpus.reading import read_shard
from frspec_cli.corpus.shards import Shard
from frspec_cli.errors import FrspecError, option
from frspec_cli.tokens.tokenizer import LoadedTokenizer

SHARDS, DOCUMENTS, CHARACTERS = 8, 32, 1 << 20
"""How much is looked at: a corpus that was made by a program holds them from its beginning on."""
_SEPARATOR = "<|endoftext|>"


def marker_warning(shards: list[Shard], fields: Fields, tokenizer: LoadedTokenizer) -> str | None:
    """A sentence if texts hold the chat template's tokens, or the string that ends documents; None if not."""
    markers = [
        token for index, token in tokenizer.added.items() if tokenizer.forced_candidates.get(index) == "template"
    ]
    ends = {_SEPARATOR, *(tokenizer.added[index] for index in tokenizer.eos_ids if index in tokenizer.added)}
    for shard in shards[:: max(1, len(shards) // SHARDS)][:SHARDS]:
        for document in _first_texts(shard, fields):
            text = document.text[:CHARACTERS]
            place = shard.label if shard.format == "text" else f"{shard.label}, line {document.line:,}"
            found = [token for token in (*markers, *sorted(ends)) if token in text]
            if len(set(found)) > 1 and any(token in markers for token in found):
                return (
                    f"texts hold the chat template's own tokens, such as {found[0]} ({place}), and each is counted as "
                    f"ordinary text; {option('preformatted')} counts them as tokens."
                )
            if shard.format == "text" and found and not fields.split_on:
                return (
                    f"{place} holds {found[0]}, which is counted as ordinary text; {option('split_on')} '{found[0]}' makes "
                    "a document of what is between."
                )
    return None


def _first_texts(shard: Shard, fields: Fields) -> list[Document]:
    try:
        items = list(islice(read_shard(shard, fields, None), DOCUMENTS))
    except FrspecError:  # left to the run itself, which says so
        return []
    return [item for item in items if isinstance(item, Document) and item.messages is None]
