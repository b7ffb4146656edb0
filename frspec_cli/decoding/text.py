"""Token ids to text as they come: only whole characters are given out."""

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


def decode(processor: Any, token_ids: Sequence[int]) -> str:
    """The text of a whole answer, special tokens left out."""
    return processor.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
