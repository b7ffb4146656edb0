"""Token ids to text as they come: whole characters only, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class TextStream:
    """Decodes one text, id by id; special tokens give no text.

    prompt_ids: the text continues these, for some decoders drop or add a space at the start.
    stop: strings that end the text and are left out of it.
    stopped: whether one of them has come.
    """

    def __init__(self, processor: Any, prompt_ids: Sequence[int] = (), *, stop: Sequence[str] = ()) -> None:
        self.backend = processor.backend_tokenizer
        self.stream = DecodeStream(ids=list(prompt_ids[-8:]), skip_special_tokens=True)
        self.stop = [string for string in stop if string]
        self.held = ""  # decoded, but it may become a stop string
        self.stopped = False

    def push(self, token_ids: Sequence[int]) -> tuple[int, str]:
        """Takes the next ids: (how many of them belong to the text, the text that is certain now).

        An id that completes a stop string belongs to the text, and none after it does.
        """
        for index, token in enumerate(token_ids):
            self.held += self.stream.step(self.backend, token) or ""
            places = [self.held.find(string) for string in self.stop if string in self.held]
            if places:
                self.stopped = True
                shown, self.held = self.held[: min(places)], ""
                return index + 1, shown
        size = len(self.held) - max((self._overlap(string) for string in self.stop), default=0)
        shown, self.held = self.held[:size], self.held[size:]
        return len(token_ids), shown

    def rest(self) -> str:
        """At the end of the text: what was held back and became no stop string."""
        rest, self.held = self.held, ""
        return rest

    def _overlap(self, string: str) -> int:
        """Length of the longest end of the held text that begins `string`."""
        sizes = range(min(len(string) - 1, len(self.held)), 0, -1)
        return next((size for size in sizes if self.held.endswith(string[:size])), 0)


def decode(processor: Any, token_ids: Sequence[int]) -> str:
    """The text of recorded ids, special tokens left out."""
    return processor.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
