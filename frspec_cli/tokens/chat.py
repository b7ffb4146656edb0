"""Conversations to token ids: the messages' text, never the template's own words.

Whole conversations count as their messages' contents, and after each finished assistant turn the token that ends it.
With `assistant_only` the assistant turns are found by prefix differences: the ids of the conversation up to and including
the turn, less those of the prompt before it. Recorded ids are used as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import tokenizers

from frspec_cli.corpus.documents import Document, Message
from frspec_cli.errors import FrspecError, option
from frspec_cli.tokens.encoder import Encoded, Encoder, joined
from frspec_cli.tokens.template import ChatTemplate, chat_template, end_of_turn
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer


class ChatEncoder:
    """Encodes documents of which some are conversations.

    template: None if the tokenizer has none.
    turn_end: the id that ends a finished assistant turn, or None.
    assistant_only: encode what the assistant said and nothing else.
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
        """The reference encoder, special tokens recognised: for rendered templates only."""
        return tokenizers.Tokenizer.from_file(str(self.tokenizer.path))

    def encode(self, documents: Sequence[Document], encoder: Encoder) -> Encoded:
        """One array of ids for each document, in order."""
        texts: list[str] = []
        plans = [self._plan(document, texts) for document in documents]
        encoded = encoder.encode(texts, [text.encode() for text in texts])
        empty = np.zeros(0, np.int32)
        parts = [[encoded.of(item) if isinstance(item, int) else item for item in plan] for plan in plans]
        return joined([np.concatenate([empty, *part]).astype(np.int32, copy=False) for part in parts])

    def _plan(self, document: Document, texts: list[str]) -> list[int | np.ndarray]:
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
                plan.append(self._assistant_ids(document.messages, index))
            else:
                add(message.content)
                plan.append(self._end(message))
        return plan

    def _end(self, message: Message) -> np.ndarray:
        ends = message.finished and self.turn_end is not None
        return np.array([self.turn_end] if ends else [], dtype=np.int32)

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        if len(ids) and ids.max() > self.tokenizer.highest_id:
            raise FrspecError(
                f"recorded token id {ids.max()} is past the tokenizer's last one ({self.tokenizer.highest_id}).",
                hint="Count the answers with the tokenizer of the model that gave them.",
            )
        return ids

    def _assistant_ids(self, messages: Sequence[Message], index: int) -> np.ndarray:
        """int32 [n]: the ids of the assistant turn `index`, turn end included if it was finished."""
        template = self.template
        assert template is not None
        turns = [{"role": message.role, "content": message.content} for message in messages]
        prompt = template.render(turns[:index], generate=True)
        answer = _added_turn(template.render(turns[: index + 1], generate=False), prompt, messages[index], template)
        if index + 1 < len(messages) and any(turn.role == "assistant" for turn in messages[index + 1 :]):
            later = template.render(turns[: index + 2], generate=False)
            if not later.startswith(prompt + answer):
                raise _rewrites()
        if not messages[index].finished and template.turn_end:
            answer = answer.removesuffix(template.turn_end[0])
        return self._difference(prompt, answer)

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


def chat_encoder(tokenizer: str, *, assistant_only: bool) -> ChatEncoder:
    """The chat encoder of a tokenizer.json (a path), with the template and turn end found beside it."""
    loaded = load_tokenizer(tokenizer)
    return ChatEncoder(loaded, chat_template(loaded), end_of_turn(loaded), assistant_only=assistant_only)


def _added_turn(rendered: str, prompt: str, message: Message, template: ChatTemplate) -> str:
    """What the turn adds to the prompt, up to and including the token that ends it."""
    if not rendered.startswith(prompt):
        raise _rewrites()
    added = rendered[len(prompt) :]
    if template.turn_end is None:
        return added
    content = message.content.strip()
    after = added.find(content) + len(content) if content in added else 0
    end = added.find(template.turn_end[0], after)
    return added[: end + len(template.turn_end[0])] if end >= 0 else added


def _rewrites() -> FrspecError:
    return FrspecError(
        "the chat template rewrites earlier turns, so what the assistant said cannot be separated from its prompt.",
        hint="Count single-turn conversations, recorded answers (response_token_ids), or without "
        f"{option('assistant_only')}.",
    )
