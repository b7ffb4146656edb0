"""Text to token ids in batches: what an encoder is, and the reference one."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from frspec_cli.tokens.tokenizer import LoadedTokenizer


class Encoded(NamedTuple):
    """The token ids of several texts.

    ids: of all texts, one after another; an unsigned or int32 array [n].
    offsets: int64 [texts + 1]; text i's ids are `ids[offsets[i]:offsets[i + 1]]`.
    """

    ids: np.ndarray
    offsets: np.ndarray

    def of(self, index: int) -> np.ndarray:
        """The ids of one text."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


def joined(parts: list[np.ndarray]) -> Encoded:
    """The ids of several texts, each text's an array of its own."""
    offsets = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return Encoded(np.concatenate(parts) if parts else np.zeros(0, np.int32), offsets)


class Encoder(Protocol):
    """Encodes texts without adding or recognising special tokens.

    name: `reference` or `fast`.
    version: of the package that encodes.
    rows: the tokenizer's highest id + 1.
    """

    name: str
    version: str

    @property
    def rows(self) -> int: ...

    def encode(self, texts: list[str], data: list[bytes]) -> Encoded:
        """The ids of each text. data: the same texts in UTF-8 (an encoder uses either)."""
        ...


class ReferenceEncoder:
    """`tokenizers.encode_batch_fast` on the unchanged tokenizer.json: what every other encoder is checked against."""

    name = "reference"

    def __init__(self, tokenizer: LoadedTokenizer) -> None:
        import tokenizers

        self.tokenizer = tokenizer
        self.version = f"tokenizers {tokenizers.__version__}"

    @property
    def rows(self) -> int:
        """See `Encoder.rows`."""
        return self.tokenizer.highest_id + 1

    def encode(self, texts: list[str], data: list[bytes]) -> Encoded:
        """See `Encoder.encode`; ids are int32."""
        return joined(self.tokenizer.encode_batch(texts))
