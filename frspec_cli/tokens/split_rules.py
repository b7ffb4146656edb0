"""What decides how a tokenizer splits text, apart from its vocabulary: a hash of each part of its tokenizer.json.

Two files can hold the same tokens under the same ids and still give other ids for a text: other merges, another
normalizer or pre-tokenizer, an added token with other flags. The fingerprint, a hash of the vocabulary, says nothing of that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

_NEVER_MATTERS = "trim_offsets"
_DEFAULTS = {"use_regex": True, "invert": False}
"""What newer files spell out and older ones leave to the library."""
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def split_rules(tokenizer: Mapping[str, Any]) -> dict[str, str]:
    """Part -> hex sha256 of its canonical form, and `all` -> the hash over the parts.

    tokenizer: a tokenizer.json as Python objects. Parts: `model` (its options), `merges`, `normalizer`, `pre_tokenizer`,
    `added_tokens` (those that are found in text), `special_tokens` (found in rendered conversations only), and `scores` of
    a vocabulary that has some. Raises as malformed content does: AttributeError, KeyError, TypeError, ValueError.
    """
    model = tokenizer["model"]
    added = tokenizer.get("added_tokens") or []
    parts = {
        "model": _digest(_options(model)),
        "merges": hashlib.sha256(
            "\n".join(map(_merge, model.get("merges") or [])).encode("utf-8", "replace")
        ).hexdigest(),
        "normalizer": _digest(_canonical(tokenizer.get("normalizer"))),
        "pre_tokenizer": _digest(_canonical(tokenizer.get("pre_tokenizer"))),
        "added_tokens": _digest(_flags(token for token in added if not token.get("special"))),
        "special_tokens": _digest(_flags(token for token in added if token.get("special"))),
    }
    if isinstance(model["vocab"], list):
        parts["scores"] = _digest(model["vocab"])
    return {**parts, "all": _digest(parts)}


def differing_parts(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The parts in which two tokenizers differ that metadata describe (`fingerprint`, `split_rules`).

    [] if either has no rules: files of earlier versions do not. Special tokens are compared only under equal vocabularies: they
    are never found in text, so one that only one file has changes no count.
    """
    first, second = ours.get("split_rules"), theirs.get("split_rules")
    if not first or not second or first.get("all") == second.get("all"):
        return []
    same_vocabulary = ours["fingerprint"] == theirs["fingerprint"]
    names = [name for name in (first | second) if name != "all" and (same_vocabulary or name != "special_tokens")]
    return [name for name in names if first.get(name) != second.get(name)]


def _options(model: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in model.items() if name not in ("vocab", "merges")}
    return {name: value for name, value in options.items() if value is not None and value is not False and value != ""}


def _merge(merge: Any) -> str:
    """Older files write a merge as `left right`, newer ones as a list of two."""
    return "\0".join(merge) if isinstance(merge, list) else merge.replace(" ", "\0", 1)


def _canonical(step: Any) -> Any:
    """A normalizer or pre-tokenizer without what changes no id; a sequence of one step is that step."""
    if not isinstance(step, Mapping):
        return step
    if step.get("type") == "Sequence":
        inner = step.get("normalizers") or step.get("pretokenizers") or []
        steps = [each for each in map(_canonical, inner) if each is not None]
        return steps[0] if len(steps) == 1 else steps or None
    kept = {name: value for name, value in step.items() if name != _NEVER_MATTERS and value is not None}
    return {name: value for name, value in kept.items() if name not in _DEFAULTS or value is not _DEFAULTS[name]}


def _flags(tokens: Any) -> list[list[Any]]:
    return sorted(
        [token["id"], token["content"], *(name for name in _FLAGS if token.get(name, False))] for token in tokens
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
