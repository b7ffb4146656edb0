"""The fast encoder: gigatoken, an optional package, never trusted before it agreed with the reference (`encoder_check`).

It relies on a word cache, so its first megabytes in every process are slow: let few processes live long. The cache grows
as long as there are new words (150 MB over the first 190 MB of web text with Gemma's tokenizer) and has no bound of its
own, so now and then the encoder is rebuilt.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
import orjson

from frspec_cli.errors import FrspecError
from frspec_cli.tokens.definition import read_json
from frspec_cli.tokens.encoder import Encoded, ReferenceEncoder, joined
from frspec_cli.tokens.tokenizer import BYTE_OF_CHARACTER, load_tokenizer

RENEW_BYTES = 2 << 30
"""Text after which the word cache is dropped: it costs about a second in forty."""


class FastEncoderRefuses(FrspecError):
    """gigatoken is not installed, or does not take this tokenizer."""


class FastEncoder:
    """gigatoken on a tokenizer.json from which the special added tokens are taken out, so that they are plain text.

    Some byte-level vocabularies lack bytes (SmolLM2's has no 0x04); gigatoken refuses those, the reference drops such
    bytes. They get ids past the last one here, and a text in which such an id turns up is encoded by the reference.

    path: of the tokenizer.json.
    parallel: encode batches on all cores.
    rows: the tokenizer's highest id + 1.
    Raises `FastEncoderRefuses`.
    """

    name = "fast"

    def __init__(self, path: str, *, parallel: bool = False) -> None:
        try:
            import gigatoken  # noqa: F401 (is it there?)
        except ImportError:
            raise FastEncoderRefuses(
                "the fast encoder (gigatoken) is not installed.", hint="pip install gigatoken, or 'frspec[fast]'."
            ) from None
        from importlib.metadata import version

        self.path = path
        self.parallel = parallel
        self.version = f"gigatoken {version('gigatoken')}"
        self._tokenizer = self._build()
        self._encoded = 0

    def _build(self) -> Any:
        import gigatoken

        definition = _definition(self.path)
        added = definition["added_tokens"]
        self.rows = 1 + max([*definition["model"]["vocab"].values(), *(token["id"] for token in added)])
        definition["added_tokens"] = [token for token in added if not token.get("special")]
        self.first_stand_in = _fill_missing_bytes(definition, self.rows)
        try:
            return gigatoken.Tokenizer.from_json(orjson.dumps(definition))
        except BaseException as error:  # PanicException, which is no Exception, if the library gives up
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
            raise FastEncoderRefuses(f"the fast encoder does not take this tokenizer ({reason}).") from None

    @cached_property
    def reference(self) -> ReferenceEncoder:
        """The reference, loaded only if a text ever needs it."""
        return ReferenceEncoder(load_tokenizer(self.path))

    def encode(self, texts: list[str], data: list[bytes]) -> Encoded:
        """See `Encoder.encode`; ids are uint32."""
        if not data:
            return Encoded(np.zeros(0, np.uint32), np.zeros(1, np.int64))
        self._encoded += sum(map(len, data))
        if self._encoded > RENEW_BYTES:
            self._tokenizer = None  # gone before the next one comes
            self._tokenizer, self._encoded = self._build(), 0
        encoded = self._on_all_cores(data) if self.parallel else self._one_by_one(data)
        if self.first_stand_in is not None and len(encoded.ids) and encoded.ids.max() >= self.first_stand_in:
            return self._without_stand_ins(encoded, texts)
        return encoded

    def _one_by_one(self, data: list[bytes]) -> Encoded:
        # Quicker than a batch (Gemma's by two fifths), and it does without the awkward arrays that a batch comes in.
        return joined([self._tokenizer.backend.encode(item) for item in data])

    def _on_all_cores(self, data: list[bytes]) -> Encoded:
        layout = self._tokenizer.encode_batch(data, parallel=True).layout
        offsets = np.asarray(layout.offsets.data).astype(np.int64, copy=False)
        return Encoded(np.asarray(layout.content.data), offsets)

    def _without_stand_ins(self, encoded: Encoded, texts: list[str]) -> Encoded:
        where = np.searchsorted(encoded.offsets, np.flatnonzero(encoded.ids >= self.first_stand_in), side="right") - 1
        again = sorted(set(where.tolist()))
        correct = self.reference.encode([texts[index] for index in again], [])
        replaced = {index: correct.of(place).astype(np.uint32) for place, index in enumerate(again)}
        return joined([replaced.get(index, encoded.of(index)) for index in range(len(texts))])


def _definition(path: str) -> dict[str, Any]:
    """The tokenizer.json at `path`, if gigatoken may be given one of its kind."""
    try:
        definition = read_json(path)
        if not isinstance(definition["model"]["vocab"], dict) or not definition["model"]["vocab"]:
            raise FastEncoderRefuses("the fast encoder does not take this tokenizer (it has no vocabulary by name).")
        definition["added_tokens"] = definition.get("added_tokens") or []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise FastEncoderRefuses(f"{path} is not a tokenizer.json of a kind that the fast encoder takes.") from None
    return definition


def _fill_missing_bytes(definition: dict[str, Any], first: int) -> int | None:
    """Gives the bytes that a byte-level vocabulary lacks the ids from `first` on; `first`, or None if none is missing."""
    model = definition["model"]
    if model.get("type") != "BPE" or '"ByteLevel"' not in json.dumps(definition.get("pre_tokenizer")):
        return None
    missing = [character for character in BYTE_OF_CHARACTER if character not in model["vocab"]]
    model["vocab"].update({character: first + index for index, character in enumerate(missing)})
    return first if missing else None
