"""Conversations to token ids: what was said, never the template's own words.

Whole conversations count as their messages' contents, and after each finished assistant's turn the token that ends it.
With `assistant_only` the assistant's turns are found by prefix differences: the ids of the conversation up to and with
the turn, less those of the prompt before it. Recorded ids are taken as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import tokenizers

from frspec_cli.errors import FrspecError
from frspec_cli.tokens.encoder import Encoded, Encoder
from frspec_cli.tokens.template import ChatTemplate, chat_template, end_of_turn
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer


class Turn(Protocol):
    """One message: see `corpus.documents.Message`."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def ids(self) -> np.ndarray | None: ...
    @property
    def finished(self) -> bool: ...


class Countable(Protocol):
    """A text or a conversation: see `corpus.documents.Document`."""

    @property
    def text(self) -> str: ...
    @property
    def messages(self) -> Sequence[Turn] | None: ...


class ChatEncoder:
    """Encodes documents of which some are conversations.

    template: None where the tokenizer has none. turn_end: the id behind a finished assistant's turn, or None.
    """

    def __init__(
        self,
        tokenizer: LoadedTokenizer,
        template: ChatTemplate | None,
        turn_end: int | None,
        *,
        assistant_only: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.turn_end = turn_end
        self.assistant_only = assistant_only

    @cached_property
    def _with_special(self) -> tokenizers.Tokenizer:
        """The reference, special tokens recognised: for rendered templates only."""
        return tokenizers.Tokenizer.from_file(str(self.tokenizer.path))

    def encode(self, documents: Sequence[Countable], encoder: Encoder) -> Encoded:
        """One array of ids for each document, in order."""
        texts: list[str] = []
        plans = [self._plan(document, texts) for document in documents]
        encoded = encoder.encode(texts, [text.encode() for text in texts])
        parts = [[encoded.of(item) if isinstance(item, int) else item for item in plan] for plan in plans]
        offsets = np.zeros(len(documents) + 1, dtype=np.int64)
        np.cumsum([sum(map(len, part)) for part in parts], out=offsets[1:])
        flat = [ids.astype(np.int32, copy=False) for part in parts for ids in part]
        return Encoded(np.concatenate(flat) if flat else np.zeros(0, np.int32), offsets)

    def _plan(self, document: Countable, texts: list[str]) -> list[int | np.ndarray]:
        """A document as a list of ids and of positions in `texts`, to which its texts are added."""
        plan: list[int | np.ndarray] = []

        def add(text: str) -> None:
            plan.append(len(texts))
            texts.append(text)

        if document.messages is None:
            add(document.text)
            return plan
        for index, message in enumerate(document.messages):
            if message.ids is not None:
                plan.append(self._checked(message.ids))
            elif message.role != "assistant":
                if not self.assistant_only:
                    add(message.content)
            elif self.assistant_only and self.template is not None:
                plan.append(self._said(document.messages, index))
            else:
                add(message.content)
                plan.append(self._end(message))
        return plan

    def _end(self, message: Turn) -> np.ndarray:
        ends = message.finished and self.turn_end is not None
        return np.array([self.turn_end] if ends else [], dtype=np.int32)

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        if len(ids) and ids.max() > self.tokenizer.highest_id:
            raise FrspecError(
                f"recorded token id {ids.max()} is past the tokenizer's last one ({self.tokenizer.highest_id}).",
                hint="Count the answers with the tokenizer of the model that gave them.",
            )
        return ids

    def _said(self, messages: Sequence[Turn], index: int) -> np.ndarray:
        """int32 [n]: the ids of the assistant's turn `index`, turn end included where it was finished."""
        template = self.template
        assert template is not None
        turns = [{"role": message.role, "content": message.content} for message in messages]
        prompt = template.render(turns[:index], generate=True)
        said = _tail(template.render(turns[: index + 1], generate=False), prompt, messages[index], template)
        if index + 1 < len(messages) and any(turn.role == "assistant" for turn in messages[index + 1 :]):
            later = template.render(turns[: index + 2], generate=False)
            if not later.startswith(prompt + said):
                raise _rewrites()
        if not messages[index].finished and template.turn_end:
            said = said.removesuffix(template.turn_end[0])
        return self._difference(prompt, said)

    def _difference(self, prompt: str, said: str) -> np.ndarray:
        """ids(prompt + said) less ids(prompt); where the prompt's last id would swallow the first of `said`, ids(said):
        the model was given the prompt's ids as they are."""
        before, both = self._ids(prompt), self._ids(prompt + said)
        chosen = both[len(before) :] if both[: len(before)] == before else self._ids(said)
        return np.array(chosen, dtype=np.int32)

    def _ids(self, text: str) -> list[int]:
        return self._with_special.encode(text, add_special_tokens=False).ids


def chat_encoder(tokenizer: str, *, assistant_only: bool) -> ChatEncoder:
    """The chat encoder of a tokenizer.json (a path), template and turn end found beside it."""
    loaded = load_tokenizer(tokenizer)
    return ChatEncoder(loaded, chat_template(loaded), end_of_turn(loaded), assistant_only=assistant_only)


def _tail(rendered: str, prompt: str, message: Turn, template: ChatTemplate) -> str:
    """What the turn adds to the prompt, up to and with the token that ends it."""
    if not rendered.startswith(prompt):
        raise _rewrites()
    added = rendered[len(prompt) :]
    if template.turn_end is None:
        return added
    content = message.content.strip()
    behind = added.find(content) + len(content) if content in added else 0
    end = added.find(template.turn_end[0], behind)
    return added[: end + len(template.turn_end[0])] if end >= 0 else added


def _rewrites() -> FrspecError:
    return FrspecError(
        "the chat template rewrites earlier turns, so what the assistant said cannot be told from its prompt.",
        hint="Count single-turn conversations, recorded answers (response_token_ids), or without --assistant-only.",
    )
