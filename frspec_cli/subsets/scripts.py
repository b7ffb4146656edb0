"""Which script a token is written in.

A token's script is that of its first letter (or, without a letter, of its first mark: Indic vowel signs). `cjk` stands
for Han, Hiragana, Katakana, Hangul and Bopomofo; every other name is Unicode's own. A token without either is `none`,
one that is no whole UTF-8 is `partial`: it belongs to a script by the company that it keeps.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex

from frspec_cli.errors import UsageError
from frspec_cli.tokens.tokenizer import LoadedTokenizer

NONE, PARTIAL, OTHER = "none", "partial", "other"
CJK = ("Han", "Hiragana", "Katakana", "Hangul", "Bopomofo")
# The scripts that coverage is shown for, by Unicode's names; a letter of any further one counts as `other`.
NAMES = (
    *("Latin", *CJK, "Cyrillic", "Arabic", "Devanagari", "Bengali", "Greek", "Hebrew", "Thai", "Tamil", "Telugu"),
    *("Kannada", "Malayalam", "Gujarati", "Gurmukhi", "Oriya", "Sinhala", "Lao", "Myanmar", "Khmer", "Tibetan"),
    *("Georgian", "Armenian", "Ethiopic", "Cherokee", "Mongolian", "Canadian_Aboriginal", "Syriac", "Thaana", "Nko"),
    *("Yi", "Tifinagh", "Javanese", "Balinese", "Coptic", "Runic", "Ogham", "Gothic", "Vai", "Braille", "Tagalog"),
)
_ANY_NAMED = regex.compile("|".join(rf"(\p{{Script={name}}})" for name in NAMES))
_UNSCRIPTED = regex.compile(r"[\p{Script=Common}\p{Script=Inherited}\p{Script=Unknown}]")


def check_name(name: str) -> str:
    """A script's name as Unicode spells it, or `cjk`. Raises `UsageError` naming the nearest ones for anything else."""
    if name.lower() == "cjk":
        return "cjk"
    for known in NAMES:
        if known.lower() == name.lower():
            return known
    try:
        regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        near = difflib.get_close_matches(name.capitalize(), NAMES, n=2) or ["cjk", "Cyrillic", "Arabic"]
        raise UsageError(f"there is no script named {name!r}.", hint=f"Did you mean {' or '.join(near)}?") from None
    return name


def script_of(content: bytes) -> str:
    """The script of one token's bytes."""
    if content.isascii():  # most tokens: a letter is what has two cases
        return "Latin" if content.lower() != content.upper() else NONE
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return PARTIAL
    return next(filter(None, map(_letter_script, text)), NONE)


@lru_cache(maxsize=1 << 18)
def _letter_script(character: str) -> str:
    """The script of a letter or mark; "" for anything that has none of its own."""
    if character.isascii():
        return "Latin" if character.isalpha() else ""
    if unicodedata.category(character)[0] not in "LM" or _UNSCRIPTED.match(character):
        return ""
    match = _ANY_NAMED.match(character)
    return NAMES[match.lastindex - 1] if match and match.lastindex else OTHER


@lru_cache(maxsize=4096)
def _possible_scripts(content: bytes) -> frozenset[str] | None:
    """The scripts that a partial token can be a piece of; None where its bytes do not say (continuation bytes only)."""
    whole = content.decode(errors="ignore")
    if known := frozenset(filter(None, map(_letter_script, whole))):
        return known
    start = max((index for index, byte in enumerate(content) if byte >= 0xC2), default=None)
    if start is None or content[start] > 0xEF:
        return None
    prefix = content[start:]
    length = 2 if prefix[0] < 0xE0 else 3
    if len(prefix) >= length:  # the last character is whole and no letter: what is cut off is the first one's head
        return None
    shift = 6 * (length - 1)
    first = (prefix[0] & (0x1F if length == 2 else 0x0F)) << shift
    for byte in prefix[1:]:
        shift -= 6
        first |= (byte & 0x3F) << shift
    points = (point for point in range(first, first + (1 << shift)) if not 0xD800 <= point < 0xE000)
    return frozenset(filter(None, (_letter_script(chr(point)) for point in points))) or None


@dataclass(frozen=True)
class Scripts:
    """The script of every token of a vocabulary.

    tokens: id -> bytes, for partial tokens only. codes: int16 [rows], indices of `names`.
    """

    codes: np.ndarray
    names: tuple[str, ...]
    tokens: Mapping[int, bytes]

    @staticmethod
    def of(tokenizer: LoadedTokenizer, rows: int) -> Scripts:
        """Every row's script; ids that the tokenizer does not have are `none`."""
        names = (NONE, PARTIAL, OTHER, *NAMES)
        index = {name: code for code, name in enumerate(names)}
        codes = np.zeros(rows, dtype=np.int16)
        ids = [token_id for token_id in tokenizer.vocabulary if token_id < rows]
        contents = tokenizer.tokens_bytes(ids)
        found = [script_of(content) for content in contents]
        codes[ids] = [index[script] for script in found]
        partial = {i: content for i, content, script in zip(ids, contents, found, strict=True) if script == PARTIAL}
        return Scripts(codes, names, partial)

    def mask(self, name: str) -> np.ndarray:
        """bool [rows]: the tokens of a script, or of the scripts of `cjk`."""
        wanted = [self.names.index(each) for each in (CJK if name == "cjk" else (name,)) if each in self.names]
        return np.isin(self.codes, wanted)

    def scores(self, name: str, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """int64 [rows]: each token's count in text of the script.

        parts: source -> int64 [rows] counts. A whole token of the script has its count. A partial token has, of its
        count in each source, the share that the script holds there among the scripts that it can be a piece of.
        """
        mine = self.mask(name)
        total = sum(parts.values())
        scores = np.where(mine, total, 0)
        group = set(CJK if name == "cjk" else (name,))
        for possible, ids in self._partial_groups().items():
            if possible is not None and not (possible & group):
                continue
            for counts in parts.values():
                weight = self._share(group, possible, counts)
                scores[ids] += np.rint(counts[ids] * weight).astype(np.int64)
        return scores

    def _partial_groups(self) -> dict[frozenset[str] | None, np.ndarray]:
        groups: dict[frozenset[str] | None, list[int]] = {}
        for token_id, content in self.tokens.items():
            groups.setdefault(_possible_scripts(content), []).append(token_id)
        return {possible: np.array(ids) for possible, ids in groups.items()}

    def _share(self, group: set[str], possible: frozenset[str] | None, counts: np.ndarray) -> float:
        """The script's share among those possible; continuation bytes are taken to come from non-Latin text."""
        by_code = np.bincount(self.codes, weights=counts, minlength=len(self.names))
        names: Sequence[str] = sorted(possible) if possible is not None else NAMES[1:]
        everything = sum(by_code[self.names.index(each)] for each in names if each in self.names)
        mine = sum(by_code[self.names.index(each)] for each in names if each in group and each in self.names)
        return float(mine / everything) if everything else 0.0
