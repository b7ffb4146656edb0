"""A tokenizer as frspec uses it: the tokenizer.json as it is on disk, its fingerprint, the bytes of its tokens.

The reference encoder is `tokenizers.Tokenizer` from that file, never AutoTokenizer, which rewrites some. Special
strings inside a text are ordinary text (`encode_special_tokens`), and no special token is added.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from frspec_cli.errors import ArtifactError, FrspecError
from frspec_cli.models.eos import eos_ids
from frspec_cli.models.locate import locate_tokenizer
from frspec_cli.models.rows import model_rows
from frspec_cli.schema import read_object, shown
from frspec_cli.tokens.definition import Definition, read_definition
from frspec_cli.tokens.template_options import TemplateOptions

if TYPE_CHECKING:
    import tokenizers

_CONFIG = "tokenizer_config.json"
_WORKING = re.compile(r"think|tool", re.IGNORECASE)
"""Of added tokens that a model writes around its thoughts and its calls, in whatever brackets."""


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer.json, with the files beside it (tokenizer_config, config, generation_config, chat template).

    reference: what the user named.
    path: the tokenizer.json.
    definition: what the file says about its tokens.
    template: what the user says about the chat template.
    """

    reference: str
    path: Path
    definition: Definition
    template: TemplateOptions = field(default_factory=TemplateOptions)

    @cached_property
    def backend(self) -> tokenizers.Tokenizer:
        """The reference encoder, built when it is first needed. Raises `FrspecError` if the library refuses the file."""
        backend = read_backend(self.path)
        backend.encode_special_tokens = True
        return backend

    @cached_property
    def vocabulary(self) -> dict[int, str]:
        """id -> token string as in the file, added tokens included, in the order of ids (which may have holes)."""
        if self.definition.vocabulary is not None:
            return self.definition.vocabulary
        by_id = sorted(self.backend.get_vocab(with_added_tokens=True).items(), key=itemgetter(1))
        return {index: token for token, index in by_id}

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 over the lines `id TAB token NEWLINE`, by id."""
        lines = "".join([f"{index}\t{token}\n" for index, token in self.vocabulary.items()])
        return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def spelled(self) -> dict[int, str]:
        """The tokens whose bytes `tokens_bytes` knows: all."""
        return self.vocabulary

    @property
    def size(self) -> int:
        """Number of tokens (not the highest id + 1: ids may have holes)."""
        return len(self.vocabulary)

    @cached_property
    def highest_id(self) -> int:
        """The highest token id."""
        return max(self.vocabulary, default=-1)

    @cached_property
    def added(self) -> dict[int, str]:
        """id -> added token."""
        if self.definition.vocabulary is not None:
            return self.definition.added
        return {index: token.content for index, token in sorted(self.backend.get_added_tokens_decoder().items())}

    def id_of(self, token: str) -> int | None:
        """The id of a token string, or None."""
        return self._ids.get(token)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in self.vocabulary.items()}

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids (int32 [n]) of each text by the reference encoder: no special tokens added, none recognised."""
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token. Raises KeyError for an id the tokenizer does not have."""
        return self.tokens_bytes([token_id])[0]

    def tokens_bytes(self, token_ids: Iterable[int]) -> list[bytes]:
        """The bytes of several tokens. Raises KeyError for an id the tokenizer does not have."""
        vocabulary, added = self.vocabulary, self.added
        to_bytes = _byte_level_bytes if self.definition.byte_level else _sentencepiece_bytes
        return [vocabulary[index].encode() if index in added else to_bytes(vocabulary[index]) for index in token_ids]

    @cached_property
    def byte_token_ids(self) -> tuple[int, ...]:
        """Ids of SentencePiece's byte tokens `<0xNN>`; () if bytes are spelled as characters (byte-level BPE)."""
        if self.definition.byte_level:
            return ()
        ids = map(self.id_of, _BYTE_TOKENS)
        return tuple(sorted(index for index in ids if index is not None))

    def beside(self, name: str) -> dict[str, Any]:
        """The JSON object in a file beside the tokenizer.json; {} if there is no such file."""
        file = self.path.with_name(name)
        return read_object(file) if file.is_file() else {}

    @cached_property
    def chat_templates(self) -> tuple[str, ...]:
        """Every chat template's source (Jinja), ready to be rendered; () for a base model.

        Raises `FrspecError` if a file beside the tokenizer.json holds something else in its place.
        """
        file = self.path.with_name("chat_template.jinja")
        own = [_template_in(file)] if file.is_file() else []
        configured = self.beside(_CONFIG).get("chat_template") or []
        entries = [{"template": configured}] if isinstance(configured, str) else configured
        try:
            listed = [entry["template"] for entry in entries]
        except (TypeError, KeyError):
            listed = [None]
        if not all(isinstance(source, str) for source in listed):
            where, found = self.path.with_name(_CONFIG), shown(configured)
            raise ArtifactError(where, "chat_template", "a template or a list of named ones", found=found)
        return self.template.apply([*own, *listed])

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that generation_config, config or tokenizer_config names as end of sequence, sorted."""
        token = token_text(self.beside(_CONFIG).get("eos_token"))
        return eos_ids(
            self.beside("generation_config.json"), self.beside("config.json"), self.id_of(token) if token else None
        )

    @cached_property
    def forced_candidates(self) -> dict[int, str]:
        """id -> why a subset keeps it whatever its count (`eos`, `template` or `byte`), in the order of ids.

        Every EOS id; added tokens, not white space, that occur in a chat template or that thoughts and tool calls are
        written with; SentencePiece byte tokens. A token that ends a turn is one of the first two. Reserved tokens are
        never forced.
        """
        forced = dict.fromkeys(self.byte_token_ids, "byte")
        for index, token in self.added.items():
            if token.strip() and (_WORKING.search(token) or any(token in each for each in self.chat_templates)):
                forced[index] = "template"
        forced.update(dict.fromkeys(self.eos_ids, "eos"))
        return dict(sorted(forced.items()))

    @cached_property
    def model_rows(self) -> int | None:
        """Rows of the model's embedding, from the files beside the tokenizer; None if there is no model."""
        return model_rows(self.path.parent)

    @property
    def identity(self) -> dict[str, Any]:
        """What metadata says to tell it from others: its name, and hashes of its vocabulary and of how it splits text."""
        return {
            "reference": self.reference,
            "fingerprint": self.fingerprint,
            "split_rules": self.definition.split_rules,
        }

    def record(self) -> dict[str, Any]:
        """What the metadata of tables and subsets says about the tokenizer."""
        return {
            **self.identity,
            "size": self.size,
            "highest_id": self.highest_id,
            "model_rows": self.model_rows,
            "forced": {str(index): reason for index, reason in self.forced_candidates.items()},
        }


def load_tokenizer(name: str, template: TemplateOptions | None = None) -> LoadedTokenizer:
    """Loads what `name` means (see `locate_tokenizer`). Raises `FrspecError` if the file is not a tokenizer.

    template: what the user says about the chat template.
    """
    path = locate_tokenizer(name)
    return LoadedTokenizer(name, path, read_definition(path), template or TemplateOptions())


def read_backend(path: Path) -> tokenizers.Tokenizer:
    """The reference encoder of a tokenizer.json, special tokens recognised. Raises `FrspecError` if the library refuses it."""
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # bare Exception for a file that it cannot parse, PanicException if it gives up
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FrspecError(f"the tokenizers library cannot read {path}: {error}.") from None
    backend.no_truncation()
    backend.no_padding()
    return backend


def token_text(token: Any) -> str:
    """A token's text as tokenizer_config.json gives it: a string, or an object with its content; "" for anything else."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _template_in(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FrspecError(f"{file} cannot be read: {error}.", hint="It must be a Jinja template in UTF-8.") from None


def _byte_characters() -> dict[str, int]:
    """Byte-level BPE's character for each byte (GPT-2's table), as character -> byte.

    Printable bytes are spelled as themselves, the others as the code points from 256 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_characters()
_BYTE_TOKENS = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}


def _byte_level_bytes(token: str) -> bytes:
    try:
        return bytes(map(BYTE_OF_CHARACTER.__getitem__, token))
    except KeyError:  # not spelled in these characters: the library takes it as it stands
        return token.encode()


def _sentencepiece_bytes(token: str) -> bytes:
    return _BYTE_TOKENS.get(token) or token.replace("\u2581", " ").encode()
