"""A tokenizer as a frequency table remembers it: enough to choose a subset where no tokenizer.json is at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from frspec_cli.errors import FrspecError, option

_OF_TABLES_ALONE = ("tokens", "holes")


@dataclass(frozen=True)
class RecordedTokenizer:
    """What a table says of the tokenizer that counted; it names and spells tokens, and encodes nothing.

    metadata: a table's record of a tokenizer. Beside what `LoadedTokenizer.record` gives it holds `holes`, the ids below the
        highest that are no tokens, and `tokens`, id -> bytes in hex of tokens that are forced and were never counted.
    counted: id -> bytes of every token that was counted.
    """

    metadata: Mapping[str, Any]
    counted: Mapping[int, bytes] = field(repr=False)

    @property
    def reference(self) -> str:
        """The name under which it is known."""
        return self.metadata["reference"]

    @property
    def fingerprint(self) -> str:
        """Of the vocabulary, as `LoadedTokenizer.fingerprint`."""
        return self.metadata["fingerprint"]

    @property
    def identity(self) -> Mapping[str, Any]:
        """What tells it from others, as `LoadedTokenizer.identity`."""
        return self.metadata

    @property
    def highest_id(self) -> int:
        """The highest token id."""
        return self.metadata["highest_id"]

    @property
    def model_rows(self) -> int | None:
        """Rows of the embedding that every model of that name has; None if they differ or are not known."""
        return self.metadata.get("model_rows")

    @cached_property
    def vocabulary(self) -> dict[int, str]:
        """Every id that is a token, in order -> its text as far as it is known."""
        holes, spelled = set(self.metadata.get("holes") or ()), self.spelled
        ids = (index for index in range(self.highest_id + 1) if index not in holes)
        return {index: spelled.get(index, b"").decode(errors="replace") for index in ids}

    @property
    def added(self) -> dict[int, str]:
        """The added tokens among those whose bytes are known: end and template tokens."""
        return {index: self.vocabulary[index] for index, kind in self.forced_candidates.items() if kind != "byte"}

    @property
    def byte_token_ids(self) -> tuple[int, ...]:
        """Ids of SentencePiece's byte tokens."""
        return tuple(index for index, kind in self.forced_candidates.items() if kind == "byte")

    @cached_property
    def spelled(self) -> dict[int, bytes]:
        """id -> bytes of the tokens whose bytes are known: those that were counted, and the forced ones."""
        uncounted = self.metadata.get("tokens") or {}
        return {**self.counted, **{int(index): bytes.fromhex(content) for index, content in uncounted.items()}}

    @cached_property
    def forced_candidates(self) -> dict[int, str]:
        """id -> why a subset keeps it whatever its count, in the order of ids."""
        forced = self.metadata.get("forced") or {}
        return {int(index): forced[index] for index in sorted(forced, key=int)}

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids that end a text, sorted."""
        return tuple(index for index, kind in self.forced_candidates.items() if kind == "eos")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token. Raises `FrspecError` if they are not known."""
        return self.tokens_bytes([token_id])[0]

    def tokens_bytes(self, token_ids: Iterable[int]) -> list[bytes]:
        """The bytes of several tokens. Raises `FrspecError` if they are not known: the table never counted one."""
        ids = list(token_ids)
        if unknown := [index for index in ids if index not in self.spelled]:
            raise FrspecError(
                f"the table of {self.reference} does not know how token {unknown[0]} is spelled, which it never counted.",
                hint=f"Name a folder with the tokenizer.json with {option('model')} or {option('tokenizer')}.",
            )
        return [self.spelled[index] for index in ids]

    def record(self) -> dict[str, Any]:
        """What the metadata of subsets says about the tokenizer, as `LoadedTokenizer.record`."""
        return {name: value for name, value in self.metadata.items() if name not in _OF_TABLES_ALONE}
