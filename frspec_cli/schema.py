"""Schemas of artifacts: what a file must hold is checked in one place, before anything is computed or allocated from it.

A schema is a pydantic model; the first field that does not fit becomes an `ArtifactError`, which names the file, the field
and what was expected. Fields that a schema does not name are left alone: later versions and other programs write more.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from frspec_cli import bounded_json, storage
from frspec_cli.errors import ArtifactError, FrspecError

MOST_ROWS = 1 << 24
"""Rows of a vocabulary: the largest in use has 262,144; more is a damaged or hostile file."""

Rows = Annotated[int, Field(ge=1, le=MOST_ROWS, strict=True)]
TokenId = Annotated[int, Field(ge=0, lt=MOST_ROWS, strict=True)]
Count = Annotated[int, Field(ge=0, lt=1 << 62, strict=True)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Schema(BaseModel):
    """The base of all schemas: types are not converted, and numbers are finite."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


Checked = TypeVar("Checked", bound=Schema)


def check(schema: type[Checked], value: Any, file: Path | str, *, hint: str = "") -> Checked:
    """`value`, which was read from `file`, as its schema. Raises `ArtifactError` for the first field that does not fit."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise _artifact_error(error, file, hint) from None


def check_type(annotation: Any, value: Any, file: Path | str, *, hint: str = "") -> Any:
    """Like `check` for a type that is not a schema, such as a list; JSON's lists may stand for tuples in it."""
    try:
        return _adapter(annotation).validate_python(value)
    except ValidationError as error:
        raise _artifact_error(error, file, hint) from None


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def parse_json(text: bytes | str, file: Path | str, *, hint: str = "") -> Any:
    """The JSON value in `text`, which was read from `file`. Raises `ArtifactError` if it is not valid JSON."""
    try:
        return bounded_json.loads(text)
    except ValueError as error:
        found = str(error) if isinstance(error, bounded_json.TooDeep) else f"not valid JSON ({error})"
        raise ArtifactError(file, "its content", "JSON", found=found, hint=hint) from None


def read_json(path: Path | str, *, hint: str = "") -> Any:
    """The JSON value in a file. Raises as `storage.read_json` does."""
    try:
        return storage.read_json(path)
    except FrspecError as error:
        raise FrspecError(error.message, hint=error.hint or hint) from None


def read_object(path: Path | str, *, hint: str = "") -> dict[str, Any]:
    """The JSON object in a file. Raises `FrspecError` if the file is missing or holds anything else."""
    value = read_json(path, hint=hint)
    if not isinstance(value, dict):
        raise ArtifactError(path, "its content", "a JSON object", found=shown(value), hint=hint)
    return value


def shown(value: Any) -> str:
    """A JSON value short enough for a sentence."""
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}..."


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a JSON object",
    "model_type": "a JSON object",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "text like {pattern}",
    "string_too_short": "at least {min_length} characters",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "value_error": "{error}",
}
"""What messages say for pydantic's kinds of errors; the others are said in its own words."""


def _artifact_error(error: ValidationError, file: Path | str, hint: str) -> ArtifactError:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"] if part != "[key]") or "its content"
    if first["type"] == "missing":
        return ArtifactError(file, field, "a value", found="missing", hint=hint)
    words = _KINDS.get(first["type"])
    expected = first["msg"] if words is None else words.format(**first.get("ctx", {}))
    return ArtifactError(file, field, expected, found=shown(first["input"]), hint=hint)
