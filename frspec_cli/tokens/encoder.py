"""Text to token ids in batches: what an encoder is, and the reference one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer


class Encoded(NamedTuple):
    """ids: the token ids of all texts, one after another (an unsigned or int32 array [n]); offsets: int64 [texts + 1],
    text i's ids are `ids[offsets[i]:offsets[i + 1]]`."""

    ids: np.ndarray
    offsets: np.ndarray

    def of(self, index: int) -> np.ndarray:
        """The ids of one text."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


class Encoder(Protocol):
    """Encodes texts without adding or recognising special tokens. name: `reference` or `fast`."""

    name: str
    version: str

    def encode(self, texts: list[str], data: list[bytes]) -> Encoded:
        """texts: what is encoded; data: the same in UTF-8 (an encoder takes whichever it likes better)."""
        ...


class ReferenceEncoder:
    """`tokenizers.encode_batch_fast` on the tokenizer.json as it lies there: what every other encoder is held against."""

    name = "reference"

    def __init__(self, tokenizer: LoadedTokenizer) -> None:
        import tokenizers

        self.tokenizer = tokenizer
        self.version = f"tokenizers {tokenizers.__version__}"

    def encode(self, texts: list[str], data: list[bytes]) -> Encoded:
        parts = self.tokenizer.encode_batch(texts)
        offsets = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return Encoded(np.concatenate(parts) if parts else np.zeros(0, np.int32), offsets)


@dataclass(frozen=True)
class EncoderSpec:
    """How a worker makes its encoder: small enough to be sent to another process or machine.

    name: `reference` or `fast`. tokenizer: the path of the tokenizer.json. threads: use all cores in one process.
    """

    name: str
    tokenizer: str
    threads: bool = False

    def build(self) -> Encoder:
        """The encoder. Raises `FrspecError` when the tokenizer cannot be loaded."""
        return ENCODERS[self.name](self)


def _reference(spec: EncoderSpec) -> Encoder:
    return ReferenceEncoder(load_tokenizer(spec.tokenizer))


def _fast(spec: EncoderSpec) -> Encoder:
    from frspec_cli.tokens.fast import FastEncoder

    return FastEncoder(spec.tokenizer, parallel=spec.threads)


ENCODERS = {"reference": _reference, "fast": _fast}
