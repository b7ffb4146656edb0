"""What the metadata of a vocabulary subset must hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from frspec_cli.counting.metadata import TokenizerRecord
from frspec_cli.schema import Count, Digest, Rows, Schema, TokenId

_Share = Annotated[float, Field(ge=0, le=1)]


class _Table(Schema):
    name: str
    sha256: str
    texts: list[str] = Field(default_factory=list)


class _Recipe(Schema):
    mix: dict[str, Annotated[float, Field(gt=0)]]
    script_budgets: dict[str, Annotated[int, Field(ge=1)]]
    forced: Literal["all", "eos", "none"]
    force_ids: list[TokenId]
    pad: bool
    vocabulary_rows: Rows | None
    shards: Annotated[int, Field(ge=1)] = 1


class _Origin(Schema):
    """Where the ids are from: `tables` chosen from by `recipe`, or `imported` from another program's file."""

    tables: list[_Table] = Field(default_factory=list)
    recipe: _Recipe | None = None
    imported: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _recipe_of_tables(self) -> _Origin:
        if self.tables and self.recipe is None:
            raise ValueError("a recipe beside the tables")
        return self


class SubsetMetadata(Schema):
    """The `frspec` key of a vocabulary subset."""

    tokenizer: TokenizerRecord
    vocabulary_rows: Rows
    k: Rows | None = None
    origin: _Origin
    coverage: _Share | None = None
    held_out: dict[str, float] | None = None
    nested: bool = True
    padded: Count = 0
    sha256: Digest
    vocabulary_rows_from: str = "tokenizer"
