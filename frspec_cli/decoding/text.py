"""Token ids to text as they come: whole characters only, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream


class TextStream:
    """Decodes ids one after the other; special tokens give no text."""

    def __init__(self, processor: Any, prompt_ids: Sequence[int] = ()) -> None:
        self.backend = processor.backend_tokenizer
        # The prompt's last ids are context: some decoders drop or add a space at the start of a text.
        self.stream = DecodeStream(ids=list(prompt_ids[-8:]), skip_special_tokens=True)

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these ids complete; '' while a character is still incomplete."""
        pieces = (self.stream.step(self.backend, token) for token in token_ids)
        return "".join(piece for piece in pieces if piece)


class StopStrings:
    """Ends a text at the first of some strings: for one text, made anew for the next."""

    def __init__(self, strings: Sequence[str], processor: Any, prompt_ids: Sequence[int] = ()) -> None:
        self.strings = [string for string in strings if string]
        self.stream = TextStream(processor, prompt_ids)
        self.text = ""
        self.found = False

    def keep(self, token_ids: Sequence[int]) -> int:
        """How many of the next ids belong to the text: all, or those up to the one that completes a stop string."""
        for index, token in enumerate(token_ids):
            self.text += self.stream.push([token])
            if any(string in self.text for string in self.strings):
                self.found = True
                return index + 1
        return len(token_ids)


class StoppedText:
    """A `TextStream` whose output ends before the first stop string: what may become one is held back."""

    def __init__(self, stream: TextStream, strings: Sequence[str]) -> None:
        self.stream = stream
        self.strings = [string for string in strings if string]
        self.held = ""

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that is sure to stand before any stop string."""
        self.held += self.stream.push(token_ids)
        found = [self.held.find(string) for string in self.strings if string in self.held]
        if found:
            shown, self.held, self.strings = self.held[: min(found)], "", [""]
            return shown
        if self.strings == [""]:
            return ""
        keep = max((self._overlap(string) for string in self.strings), default=0)
        shown, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return shown

    def rest(self) -> str:
        """At the end of the text: what was held back and became no stop string."""
        rest, self.held = self.held, ""
        return rest

    def _overlap(self, string: str) -> int:
        """Length of the longest end of the held text that begins `string`."""
        sizes = range(min(len(string) - 1, len(self.held)), 0, -1)
        return next((size for size in sizes if self.held.endswith(string[:size])), 0)


def decode(processor: Any, token_ids: Sequence[int], *, stop: Sequence[str] = ()) -> str:
    """The text of a whole answer, special tokens and everything from the first stop string on left out."""
    text = processor.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    places = [text.find(string) for string in stop if string and string in text]
    return text[: min(places)] if places else text
