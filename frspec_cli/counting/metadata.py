"""What the metadata of a frequency table must hold; the fields that only some tables have may be missing."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from frspec_cli.schema import Count, Rows, Schema, TokenId

_Hex = Annotated[str, Field(pattern="^([0-9a-f]{2})*$", max_length=4096)]
_Id = Annotated[str, Field(pattern="^[0-9]{1,8}$")]


class TokenizerRecord(Schema):
    """The tokenizer whose ids a file holds. forced: id -> why it is kept whatever its count.

    split_rules: as `tokens.split_rules` gives them; files of earlier versions have none.
    holes, tokens: of a table that spells its tokens, as in `RecordedTokenizer`.
    """

    reference: str
    fingerprint: Annotated[str, Field(min_length=1)]
    split_rules: dict[str, str] | None = None
    size: Count | None = None
    highest_id: TokenId | None = None
    model_rows: Rows | None = None
    forced: dict[_Id, str] | None = None
    holes: list[TokenId] | None = None
    tokens: dict[_Id, _Hex] | None = None


class _CountingTokenizer(TokenizerRecord):
    highest_id: TokenId


class _Shard(Schema):
    path: str
    size: Count
    sha256: str
    start: Count = 0
    lines: Count
    documents: Count
    tokens: Count
    bytes: Count
    skipped: dict[str, Count]


class _Encoder(Schema):
    name: str
    version: str | None = None
    probe: dict[str, Count] | None = None


class TableMetadata(Schema):
    """The `frspec` key of a frequency table.

    also: further tokenizers that were found to give the same counts on the same text.
    text: what was counted, in one sentence.
    """

    tokenizer: _CountingTokenizer
    also: list[_CountingTokenizer] | None = None
    text: str | None = None
    lines: Count | None = None
    documents: Count | None = None
    tokens: Count | None = None
    bytes: Count | None = None
    skipped: dict[str, Count] | None = None
    shards: list[_Shard] | None = None
    encoder: _Encoder | None = None
    options: dict[str, Any] | None = None
    stability: dict[str, dict[str, float]] | None = None
