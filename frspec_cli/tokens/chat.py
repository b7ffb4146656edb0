"""Conversations to token ids: the messages' text, never the template's own words.

Whole conversations count as their messages' texts (reasoning, content, tool calls), and after each finished assistant turn
the token that ends it. With `assistant_only` the assistant's turns are those of the chat template (see `rendering`): their
ids are those of the rendering up to and including the turn, less those of what stands before it. Recorded ids are used as
they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from frspec_cli.corpus.documents import Document, Message, Reason
from frspec_cli.errors import FrspecError
from frspec_cli.tokens.encoder import Encoded, Encoder, joined
from frspec_cli.tokens.rendering import Renderer, TurnSkipped
from frspec_cli.tokens.template import chat_template, end_of_turn
from frspec_cli.tokens.template_options import TemplateOptions
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer, read_backend

if TYPE_CHECKING:
    import tokenizers


@dataclass
class Turns:
    """The assistant turns of one document.

    counted: how many were encoded.
    skipped: (reason, detail) of each that was not.
    """

    counted: int = 0
    skipped: list[tuple[Reason, str]] = field(default_factory=list)

    @property
    def all_skipped(self) -> bool:
        """Whether turns were skipped and none counted."""
        return bool(self.skipped) and not self.counted


class ChatEncoder:
    """Encodes documents of which some are conversations.

    renderer: of the chat template; None if the tokenizer has none.
    turn_end: the id that ends a finished assistant turn, or None.
    assistant_only: encode what the assistant said and nothing else.
    preformatted: recognise special tokens in documents that are text.
    """

    def __init__(
        self,
        tokenizer: LoadedTokenizer,
        renderer: Renderer | None,
        turn_end: int | None,
        *,
        assistant_only: bool = False,
        preformatted: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.renderer = renderer
        self.turn_end = turn_end
        self.assistant_only = assistant_only
        self.preformatted = preformatted

    @cached_property
    def _with_special(self) -> tokenizers.Tokenizer:
        """The reference encoder, special tokens recognised: for rendered templates."""
        return read_backend(self.tokenizer.path)

    def encode(self, documents: Sequence[Document], encoder: Encoder) -> tuple[Encoded, list[Turns]]:
        """One array of ids for each document, in order, and what became of its assistant turns."""
        texts: list[str] = []
        turns = [Turns() for _ in documents]
        plans = [self._plan(document, texts, of) for document, of in zip(documents, turns, strict=True)]
        encoded = encoder.encode(texts, [text.encode() for text in texts])
        empty = np.zeros(0, np.int32)
        parts = [[encoded.of(item) if isinstance(item, int) else item for item in plan] for plan in plans]
        return joined([np.concatenate([empty, *part]).astype(np.int32, copy=False) for part in parts]), turns

    def _plan(self, document: Document, texts: list[str], turns: Turns) -> list[int | np.ndarray]:
        """A document as a list of ids and of positions in `texts`, to which its texts are added.

        turns: is told what becomes of the assistant's.
        """
        plan: list[int | np.ndarray] = []

        def add(text: str) -> None:
            plan.append(len(texts))
            texts.append(text)

        if document.messages is None:
            if self.preformatted:
                plan.append(np.array(self._ids(document.text), dtype=np.int32))
            else:
                add(document.text)
            return plan
        for index, message in enumerate(document.messages):
            if message.role != "assistant":
                if message.ids is not None:
                    plan.append(self.check_ids(message.ids))
                elif not self.assistant_only:
                    for text in message.texts():
                        add(text)
                continue
            try:
                if message.ids is not None:
                    plan.append(self.check_ids(message.ids))
                elif self.assistant_only and self.renderer is not None:
                    plan.append(self._assistant_ids(self.renderer, document.messages, index))
                else:
                    for text in message.texts():
                        add(text)
                    plan.append(self._end(message))
                turns.counted += 1
            except TurnSkipped as skipped:
                turns.skipped.append((skipped.reason, skipped.detail))
        return plan

    def _end(self, message: Message) -> np.ndarray:
        ends = message.finished and self.turn_end is not None
        return np.array([self.turn_end] if ends else [], dtype=np.int32)

    def answer_ids(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """(ids of what stands before the last message, the assistant's; ids of it). Raises `TurnSkipped`."""
        if self.renderer is None:
            raise FrspecError(f"{self.tokenizer.reference} has no chat template.")
        turn = self.renderer.turn(messages, len(messages) - 1)
        return self._ids(turn.before), self._difference(turn.before, turn.said).tolist()

    def check_ids(self, ids: np.ndarray) -> np.ndarray:
        """The ids. Raises `FrspecError` if the tokenizer lacks one of them."""
        if len(ids) and ids.max() > self.tokenizer.highest_id:
            raise FrspecError(
                f"recorded token id {ids.max()} is past the tokenizer's last one ({self.tokenizer.highest_id}).",
                hint="Count the answers with the tokenizer of the model that gave them.",
            )
        return ids

    def _assistant_ids(self, renderer: Renderer, messages: Sequence[Message], index: int) -> np.ndarray:
        """int32 [n]: the ids of the assistant turn `index`, turn end included if it was finished."""
        turn = renderer.turn(messages, index)
        return self._difference(turn.before, turn.said)

    def _difference(self, prompt: str, answer: str) -> np.ndarray:
        """ids(prompt + answer) less ids(prompt).

        If the prompt's last id would swallow the first of the answer, ids(answer): the model was given the prompt's ids
        as they are.
        """
        before, both = self._ids(prompt), self._ids(prompt + answer)
        ids = both[len(before) :] if both[: len(before)] == before else self._ids(answer)
        return np.array(ids, dtype=np.int32)

    def _ids(self, text: str) -> list[int]:
        return self._with_special.encode(text, add_special_tokens=False).ids


def chat_encoder(
    tokenizer: str, *, assistant_only: bool, template: TemplateOptions | None = None, preformatted: bool = False
) -> ChatEncoder:
    """The chat encoder of a tokenizer.json (a path), with the template and turn end found beside it.

    template: what the user says about the chat template.
    """
    loaded = load_tokenizer(tokenizer, template)
    found = chat_template(loaded)
    renderer = None if found is None else Renderer(found)
    return ChatEncoder(loaded, renderer, end_of_turn(loaded), assistant_only=assistant_only, preformatted=preformatted)
