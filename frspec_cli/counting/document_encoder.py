"""Documents to token ids: texts by an encoder, conversations by the chat rules around the same encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from frspec_cli.corpus.documents import Document
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


def build_encoder(name: str, tokenizer: str) -> Encoder:
    """The encoder of that name (`fast` or `reference`) for a tokenizer.json (a path)."""
    return FastEncoder(tokenizer) if name == FastEncoder.name else ReferenceEncoder(load_tokenizer(tokenizer))
