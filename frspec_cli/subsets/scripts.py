"""Which script a token is written in.

A token's script is that of its first letter or mark (Indic vowel signs are marks). `cjk` stands for Han, Hiragana,
Katakana, Hangul and Bopomofo; every other name is Unicode's own. A token without a letter or mark is `none`. One whose
bytes are not whole UTF-8 is `partial`: its count is attributed to scripts by context, source by source.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex

from frspec_cli.errors import UsageError, did_you_mean
from frspec_cli.tokens.recorded import RecordedTokenizer
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
    """A script's name as Unicode spells it, or `cjk`. Raises `UsageError` with the nearest names for anything else."""
    if name.lower() == "cjk":
        return "cjk"
    for known in NAMES:
        if known.lower() == name.lower():
            return known
    try:
        regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        named = "Scripts are named as in Unicode, such as Cyrillic; cjk is Chinese, Japanese and Korean together."
        raise UsageError(f"there is no script named {name!r}.", hint=did_you_mean(name, NAMES) or named) from None
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
    """The scripts that a partial token can be a piece of; None if its bytes do not tell (continuation bytes only)."""
    whole_characters = content.decode(errors="ignore")
    return _scripts_of(whole_characters) or _scripts_of(map(chr, _cut_off_character(content))) or None


def _scripts_of(characters: Iterable[str]) -> frozenset[str]:
    return frozenset(filter(None, map(_letter_script, characters)))


def _cut_off_character(content: bytes) -> range:
    """The code points that a character whose end is cut off can have; empty if no such character ends the bytes.

    Characters of four bytes are not looked at: their first byte alone says too little.
    """
    start = max((index for index, byte in enumerate(content) if byte >= 0xC2), default=None)
    if start is None or content[start] > 0xEF:
        return range(0)
    lead, *rest = content[start:]
    length = 2 if lead < 0xE0 else 3
    missing = length - 1 - len(rest)
    if missing <= 0:  # the last character is whole and not a letter: the cut is at the front
        return range(0)
    known_bits = lead & (0x1F if length == 2 else 0x0F)
    for byte in rest:
        known_bits = (known_bits << 6) | (byte & 0x3F)
    shortest = 0x80 if length == 2 else 0x800  # below it UTF-8 needs fewer bytes
    return range(max(known_bits << (6 * missing), shortest), (known_bits + 1) << (6 * missing))


@dataclass(frozen=True)
class Scripts:
    """The script of every token of a vocabulary.

    codes: int16 [rows], indices of `names`.
    names: of the scripts.
    tokens: id -> bytes, for partial tokens only.
    """

    codes: np.ndarray
    names: tuple[str, ...]
    tokens: Mapping[int, bytes]

    @staticmethod
    def of(tokenizer: LoadedTokenizer | RecordedTokenizer, rows: int) -> Scripts:
        """Every row's script; rows without a token whose bytes are known are `none`."""
        names = (NONE, PARTIAL, OTHER, *NAMES)
        index = {name: code for code, name in enumerate(names)}
        codes = np.zeros(rows, dtype=np.int16)
        ids = [token_id for token_id in tokenizer.spelled if token_id < rows]
        contents = tokenizer.tokens_bytes(ids)
        scripts = [script_of(content) for content in contents]
        codes[ids] = [index[script] for script in scripts]
        partial = {i: content for i, content, script in zip(ids, contents, scripts, strict=True) if script == PARTIAL}
        return Scripts(codes, names, partial)

    def mask(self, name: str) -> np.ndarray:
        """bool [rows]: the tokens of a script, or of the scripts of `cjk`."""
        codes = [self.names.index(each) for each in _group(name) if each in self.names]
        return np.isin(self.codes, codes)

    def scores(self, name: str, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """int64 [rows]: each token's count in text of the script.

        parts: source -> int64 [rows] counts.
        A whole token of the script scores its count. A partial token scores, of its count in each source, the share that
        the script has there among the scripts that the token can be a piece of.
        """
        scores = np.where(self.mask(name), sum(parts.values()), 0)
        group = set(_group(name))
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
        of_group = sum(by_code[self.names.index(each)] for each in names if each in group and each in self.names)
        return float(of_group / everything) if everything else 0.0


def _group(name: str) -> tuple[str, ...]:
    return CJK if name == "cjk" else (name,)
