"""Which encoder counts: the fast one if it is installed and agrees with the reference, else the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from frspec_cli.corpus.documents import Document, Fields
from frspec_cli.corpus.reading import read_shard
from frspec_cli.corpus.shards import Shard
from frspec_cli.counting.accumulator import ShardCounts
from frspec_cli.counting.document_encoder import DocumentEncoder
from frspec_cli.counting.options import ENCODERS
from frspec_cli.errors import FrspecError, not_one_of
from frspec_cli.tokens.encoder import ReferenceEncoder
from frspec_cli.tokens.encoder_check import check, compare, hostile_texts
from frspec_cli.tokens.fast import FastEncoder, FastEncoderRefuses
from frspec_cli.tokens.tokenizer import LoadedTokenizer

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
    """The fast encoder for a tokenizer.json (a path), not checked yet; None if the reference is to count.

    begun_with: the encoder of an unfinished run of the same output.
    threads: encode on all cores within this process.
    say: gets the reason if `auto` falls back to the reference; `fast` raises `FastEncoderRefuses` instead.
    """
    if wanted not in ENCODERS:
        raise not_one_of("encoder", wanted, ENCODERS)
    if wanted == "reference" or (wanted == "auto" and begun_with == "reference"):
        return None
    try:
        return FastEncoder(tokenizer, parallel=threads)
    except FastEncoderRefuses as error:
        if wanted == "fast":
            raise
        say(f"counting with the reference encoder: {error.message}")
        return None


def check_encoder(
    encoder: DocumentEncoder, tokenizer: LoadedTokenizer, shards: list[Shard], fields: Fields
) -> dict[str, Any]:
    """What a table's metadata says of the encoder.

    An encoder that is not the reference must first give the reference's ids on hostile strings and on documents of the
    corpus (the whole corpus, whichever shards are counted here). Raises `EncodersDiffer` if it does not.
    """
    record = {"name": encoder.encoder.name, "version": encoder.encoder.version}
    if isinstance(encoder.encoder, ReferenceEncoder):
        return record
    probed = compare(encoder.encoder, tokenizer, hostile_texts(tokenizer))
    number, size = probed.documents, probed.bytes
    reference = reference_of(encoder, tokenizer)
    documents = probe_documents(shards, fields)
    texts = [document for document in documents if document.messages is None]
    for batch in (texts, *([document] for document in documents if document.messages is not None)):
        try:
            expected = reference.encode(batch)
        except FrspecError:  # a conversation that the template refuses is left to the run itself, which says so
            continue
        encoded = encoder.encode(batch)
        for index, document in enumerate(batch):
            check(_as_text(document), encoded.of(index), expected.of(index))
        number += len(batch)
        size += sum(len(document.data) for document in batch)
    return {**record, "probe": {"documents": number, "bytes": size}}


def recheck_samples(part: ShardCounts, reference: DocumentEncoder) -> None:
    """Encodes a part's samples by the reference. Raises `EncodersDiffer` if any ids differ."""
    if not part.samples:
        return
    expected = reference.encode([document for document, _ in part.samples])
    for index, (document, ids) in enumerate(part.samples):
        check(_as_text(document), ids, expected.of(index))


def reference_of(encoder: DocumentEncoder, tokenizer: LoadedTokenizer) -> DocumentEncoder:
    """The reference by the same rules for conversations."""
    return DocumentEncoder(
        ReferenceEncoder(tokenizer),
        encoder.tokenizer,
        assistant_only=encoder.assistant_only,
        template=encoder.template,
        preformatted=encoder.preformatted,
    )


def _as_text(document: Document) -> str:
    return document.text if document.messages is None else document.data.decode()


def probe_documents(shards: list[Shard], fields: Fields) -> list[Document]:
    """The first short documents of a few shards spread over the corpus: the same for equal corpora.

    A shard that cannot be read is left to the run itself, which says so.
    """
    step = max(1, len(shards) // PROBE_SHARDS)
    probed_shards = shards[::step][:PROBE_SHARDS]
    documents: list[Document] = []
    for shard in probed_shards:
        size = 0
        for document in _documents(shard, fields):
            if size + len(document.data) > PROBE_BYTES // len(probed_shards):
                break
            if len(document.data) <= PROBE_DOCUMENT_BYTES:
                documents.append(document)
                size += max(1, len(document.data))  # a recorded answer may hold ids only
    return documents


def _documents(shard: Shard, fields: Fields) -> Iterator[Document]:
    try:
        yield from (item for item in read_shard(shard, fields, None) if isinstance(item, Document))
    except FrspecError:
        return
