"""Documents to token ids: texts by an encoder, conversations by the chat rules around the same encoder."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from frspec_cli.corpus.documents import Document
from frspec_cli.counting.table import FOLDS
from frspec_cli.tokens.chat import ChatEncoder, chat_encoder
from frspec_cli.tokens.encoder import Encoded, Encoder, ReferenceEncoder
from frspec_cli.tokens.fast import FastEncoder
from frspec_cli.tokens.tokenizer import load_tokenizer


class DocumentEncoder:
    """Encodes documents as they are counted.

    encoder: encodes the texts. tokenizer: path of the tokenizer.json; the chat template is beside it.
    assistant_only: of conversations, only what the assistant said.
    """

    def __init__(self, encoder: Encoder, tokenizer: str, *, assistant_only: bool) -> None:
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.assistant_only = assistant_only

    @cached_property
    def chat(self) -> ChatEncoder:
        """How conversations are encoded; made for the first one."""
        return chat_encoder(self.tokenizer, assistant_only=self.assistant_only)

    def encode(self, documents: Sequence[Document]) -> Encoded:
        """The ids of each document. Raises `FrspecError` for a conversation that the chat template refuses."""
        if any(document.messages is not None for document in documents):
            return self.chat.encode(documents, self.encoder)
        return self.encoder.encode([document.text for document in documents], [document.data for document in documents])


@dataclass(frozen=True)
class EncodedBatch:
    """Documents with their ids.

    Documents are encoded grouped by source and fold, so that a group's ids are one slice; limits and samples go by the
    order in which they were read. All fields but the last two are in the order read; `place` leads from it to the other.

    documents, crcs: as read, with the CRC-32 of each.
    keys: (source, fold) of each.
    lengths: int64 [documents], how many ids each has.
    place: where in `grouped` each is.
    grouped: the ids, document by document, sorted by (source, fold).
    """

    documents: list[Document]
    crcs: list[int]
    keys: list[tuple[str, int]]
    lengths: np.ndarray
    place: np.ndarray
    grouped: Encoded

    @staticmethod
    def of(documents: list[Document], encoder: DocumentEncoder) -> EncodedBatch:
        """Encodes the documents."""
        # A document's fold, 0 to 9, is its hash mod 10: the same on every machine, and nearly free.
        crcs = [zlib.crc32(document.data) for document in documents]
        keys = [(document.source, crc % FOLDS) for document, crc in zip(documents, crcs, strict=True)]
        order = sorted(range(len(documents)), key=keys.__getitem__)
        grouped = encoder.encode([documents[index] for index in order])
        lengths, place = np.empty((2, len(documents)), dtype=np.int64)
        lengths[order] = np.diff(grouped.offsets)
        place[order] = np.arange(len(documents))
        return EncodedBatch(documents, crcs, keys, lengths, place, grouped)

    def ids_of(self, index: int) -> np.ndarray:
        """The ids of one document, by the order read."""
        return self.grouped.of(int(self.place[index]))

    def groups(self) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
        """(source, fold, ids, lengths of its documents) of every group."""
        keys = sorted(self.keys)
        ids, offsets = self.grouped
        first = 0
        for last in range(1, len(keys) + 1):
            if last == len(keys) or keys[last] != keys[first]:
                yield *keys[first], ids[offsets[first] : offsets[last]], np.diff(offsets[first : last + 1])
                first = last


def build_encoder(name: str, tokenizer: str) -> Encoder:
    """The encoder of that name (`fast` or `reference`) for a tokenizer.json (a path)."""
    return FastEncoder(tokenizer) if name == FastEncoder.name else ReferenceEncoder(load_tokenizer(tokenizer))
