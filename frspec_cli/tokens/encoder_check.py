"""Whether another encoder gives the reference's ids: on real documents of the corpus and on hostile strings."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from frspec_cli.errors import FrspecError
from frspec_cli.tokens.encoder import Encoder
from frspec_cli.tokens.tokenizer import LoadedTokenizer

_SPACES = ("", " ", "  ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\u200b", "\ufeff")
_PIECES = (
    "Hello", "world's", "WE'LL", "don\u2019t", "x1234567890123", "3.14159", "a_b-c/d", "<|endoftext|>", "<s></s>",
    "\u00e9", "e\u0301", "\u1e9b\u0323", "\ufb01", "\u212b", "\u4f60\u597d\u4e16\u754c",
    "\u3053\u3093\u306b\u3061\u306f\uff01", "\uc548\ub155", "\u1112\u1161\u11ab", "\u0421\u0442\u0430\u0432\u0440",
    "\u0645\u0631\u062d\u0628\u0627 \u202e\u0628\u202c",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f469\u200d\U0001f469\u200d\U0001f466", "\U0001f3f4\U000e0067\U000e007f",
    "\U0001d54f", "\U0010ffff", "\ue000", "\u0378",
    "\u00ad", "\x00", "\x01\x02", "\x04", "\x1b[0m", "\x7f", "\x85",
)  # fmt: skip
_RUN = 3000


class EncodersDiffer(FrspecError):
    """The fast encoder gave other ids than the reference for a text."""


@dataclass(frozen=True)
class Probed:
    """What an encoder was probed on."""

    documents: int
    bytes: int


def hostile_texts(tokenizer: LoadedTokenizer) -> list[str]:
    """Strings on which tokenizers' implementations tend to differ, some made of this tokenizer's own added tokens."""
    added = list(tokenizer.added.values())
    some = added if len(added) <= 64 else added[:: len(added) // 64]
    pairs = [left + space + right for space in _SPACES for left, right in itertools.pairwise(_PIECES)]
    runs = [character * _RUN for character in " a1\n.\u4f60=\u00e9"] + ["ab" * _RUN, "A\u0301" * _RUN]
    mixed = [f"{text}{token} {token}{text}" for token, text in zip(some, itertools.cycle(_PIECES), strict=False)]
    controls = "".join(map(chr, range(32))) + "".join(map(chr, range(0x7F, 0xA1)))
    return [*_PIECES, *filter(None, _SPACES), *pairs, *runs, *some, *mixed, "".join(some), controls, *controls]


def compare(fast: Encoder, tokenizer: LoadedTokenizer, texts: list[str]) -> Probed:
    """Encodes the texts both ways. Raises `EncodersDiffer` for the first text whose ids differ."""
    data = [text.encode() for text in texts]
    encoded = fast.encode(texts, data)
    for index, (text, expected) in enumerate(zip(texts, tokenizer.encode_batch(texts), strict=True)):
        check(text, encoded.of(index), expected)
    return Probed(len(texts), sum(map(len, data)))


def check(text: str, ids: np.ndarray, expected: np.ndarray) -> None:
    """Raises `EncodersDiffer` unless the two arrays of ids for `text` are equal."""
    if len(ids) == len(expected) and (ids == expected).all():
        return
    shared = min(len(ids), len(expected))
    differ = np.flatnonzero(ids[:shared] != expected[:shared])
    position = int(differ[0]) if len(differ) else shared
    raise EncodersDiffer(
        f"the fast encoder differs from the reference on {text[:60]!r}, from id {position} on: "
        f"{ids[position : position + 4].tolist()} for {expected[position : position + 4].tolist()}."
    )
