"""Documents to token ids: texts by an encoder, conversations by the chat rules around the same encoder."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from frspec_cli.corpus.documents import Document, Skipped
from frspec_cli.counting.table import FOLDS
from frspec_cli.tokens.chat import ChatEncoder, Turns, chat_encoder
from frspec_cli.tokens.encoder import Encoded, Encoder, ReferenceEncoder
from frspec_cli.tokens.fast import FastEncoder
from frspec_cli.tokens.template_options import TemplateOptions
from frspec_cli.tokens.tokenizer import load_tokenizer


class DocumentEncoder:
    """Encodes documents as they are counted.

    encoder: encodes the texts. tokenizer: path of the tokenizer.json; the chat template is beside it.
    assistant_only: of conversations, only what the assistant said.
    template: what the user says about the chat template.
    preformatted: recognise special tokens in texts.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: str,
        *,
        assistant_only: bool,
        template: TemplateOptions | None = None,
        preformatted: bool = False,
    ) -> None:
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.assistant_only = assistant_only
        self.template = template
        self.preformatted = preformatted

    @cached_property
    def chat(self) -> ChatEncoder:
        """How conversations are encoded; made for the first one."""
        return chat_encoder(
            self.tokenizer,
            assistant_only=self.assistant_only,
            template=self.template,
            preformatted=self.preformatted,
        )

    def encode(self, documents: Sequence[Document]) -> Encoded:
        """The ids of each document; a turn that is skipped has none."""
        return self.encode_turns(documents)[0]

    def encode_turns(self, documents: Sequence[Document]) -> tuple[Encoded, list[Turns]]:
        """The ids of each document, and what became of its assistant turns (an empty list if all documents are text)."""
        if self.preformatted or any(document.messages is not None for document in documents):
            return self.chat.encode(documents, self.encoder)
        texts = [document.text for document in documents]
        return self.encoder.encode(texts, [document.data for document in documents]), []


@dataclass(frozen=True)
class EncodedBatch:
    """Documents with their ids.

    Documents are encoded grouped by source and fold, so that a group's ids are one slice; limits and samples go by the
    order in which they were read. `documents` to `lengths` are in the order read; `place` leads from it to the other.
    A conversation of which every assistant turn is skipped is in `skipped` alone.

    documents, crcs: as read, with the CRC-32 of each.
    keys: (source, fold) of each.
    lengths: int64 [documents], how many ids each has.
    place: where in `grouped` each is.
    grouped: the ids, document by document, sorted by (source, fold).
    skipped: of each conversation without any turn that counts, in the order read, its turns.
    skipped_turns: of each document of which some turns are skipped, by its place in the order read, these turns.
    """

    documents: list[Document]
    crcs: list[int]
    keys: list[tuple[str, int]]
    lengths: np.ndarray
    place: np.ndarray
    grouped: Encoded
    skipped: list[list[Skipped]]
    skipped_turns: dict[int, list[Skipped]]

    @staticmethod
    def of(documents: list[Document], encoder: DocumentEncoder) -> EncodedBatch:
        """Encodes the documents."""
        # A document's fold, 0 to 9, is its hash mod 10: the same on every machine, and nearly free.
        crcs = [zlib.crc32(document.data) for document in documents]
        keys = [(document.source, crc % FOLDS) for document, crc in zip(documents, crcs, strict=True)]
        order = sorted(range(len(documents)), key=keys.__getitem__)
        grouped, turns = encoder.encode_turns([documents[index] for index in order])
        turns_of = dict(zip(order, turns, strict=False))
        skips = {
            index: [Skipped(documents[index].line, reason, detail) for reason, detail in turns_of[index].skipped]
            for index in sorted(turns_of)
            if turns_of[index].skipped
        }
        left_out = {index for index in skips if turns_of[index].all_skipped}
        if left_out:  # none of them has ids, so that the others' stay where they are
            kept = [place for place, index in enumerate(order) if index not in left_out]
            grouped = grouped._replace(offsets=grouped.offsets[[0, *(place + 1 for place in kept)]])
            read = [index for index in range(len(documents)) if index not in left_out]
            number = {index: new for new, index in enumerate(read)}
            order = [number[order[place]] for place in kept]
            documents, crcs = [documents[index] for index in read], [crcs[index] for index in read]
            keys = [keys[index] for index in read]
        else:
            number = {index: index for index in skips}
        lengths, place = np.empty((2, len(documents)), dtype=np.int64)
        lengths[order] = np.diff(grouped.offsets)
        place[order] = np.arange(len(documents))
        skipped = [items for index, items in skips.items() if index in left_out]
        skipped_turns = {number[index]: items for index, items in skips.items() if index not in left_out}
        return EncodedBatch(documents, crcs, keys, lengths, place, grouped, skipped, skipped_turns)

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
