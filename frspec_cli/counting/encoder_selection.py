"""Which encoder counts: the fast one where it is there and agrees with the reference, else the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from frspec_cli.corpus.documents import Document, Fields
from frspec_cli.corpus.reading import read_shard
from frspec_cli.corpus.shards import Shard
from frspec_cli.counting.accumulator import ShardCounts
from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.tokens.encoder import ReferenceEncoder
from frspec_cli.tokens.encoder_check import check, compare, hostile_texts
from frspec_cli.tokens.fast import FastEncoder, FastEncoderRefuses
from frspec_cli.tokens.tokenizer import LoadedTokenizer

CHOICES = ("auto", "fast", "reference")
PROBE_SHARDS = 8
PROBE_BYTES = 256 << 10
PROBE_DOCUMENT_BYTES = 32 << 10


def select_fast_encoder(
    wanted: str,
    tokenizer: str,
    *,
    begun_with: str | None = None,
    threads: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> FastEncoder | None:
    """The fast encoder for a tokenizer.json (a path), not proved yet; None where the reference is to count.

    begun_with: the encoder that an unfinished run of the same output chose. `auto` falls back to the reference and says
    why; `fast` raises `FastEncoderRefuses`.
    """
    if wanted not in CHOICES:
        raise UsageError(f"--encoder {wanted} is not one of {', '.join(CHOICES)}.")
    if wanted == "reference" or (wanted == "auto" and begun_with == "reference"):
        return None
    try:
        return FastEncoder(tokenizer, parallel=threads)
    except FastEncoderRefuses as error:
        if wanted == "fast":
            raise
        say(f"counting with the reference encoder: {error.message}")
        return None


def check_encoder(fast: FastEncoder, tokenizer: LoadedTokenizer, shards: list[Shard], fields: Fields) -> dict[str, Any]:
    """What a table's metadata says of the fast encoder, once it agreed with the reference on hostile strings and on
    documents of the corpus (the whole corpus, whichever shards are counted here). Raises `EncodersDiffer`."""
    probed = compare(fast, tokenizer, [*hostile_texts(tokenizer), *probe_texts(shards, fields)])
    return {
        "name": fast.name,
        "version": fast.version,
        "probe": {"documents": probed.documents, "bytes": probed.bytes},
    }


def reference_record(tokenizer: LoadedTokenizer) -> dict[str, Any]:
    """What a table's metadata says of the reference."""
    return {"name": ReferenceEncoder.name, "version": ReferenceEncoder(tokenizer).version}


def recheck_samples(part: ShardCounts, tokenizer: LoadedTokenizer) -> None:
    """Encodes a part's samples by the reference. Raises `EncodersDiffer` where the ids are not equal."""
    texts = [text for text, _ in part.samples]
    for (text, ids), expected in zip(part.samples, tokenizer.encode_batch(texts) if texts else [], strict=True):
        check(text, ids, expected)


def probe_texts(shards: list[Shard], fields: Fields) -> list[str]:
    """The first short documents of a few shards spread over the corpus: the same for equal corpora.

    A shard that cannot be read is left to the run itself, which says so.
    """
    step = max(1, len(shards) // PROBE_SHARDS)
    chosen = shards[::step][:PROBE_SHARDS]
    texts: list[str] = []
    for shard in chosen:
        size = 0
        for document in _documents(shard, fields):
            if size + len(document.data) > PROBE_BYTES // len(chosen):
                break
            if len(document.data) <= PROBE_DOCUMENT_BYTES:
                texts.append(document.text)
                size += len(document.data)
    return texts


def _documents(shard: Shard, fields: Fields) -> Iterator[Document]:
    try:
        for item in read_shard(shard, fields, None):
            if isinstance(item, Document) and item.messages is None:
                yield item
    except FrspecError:
        return
