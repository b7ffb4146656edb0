"""What a count is asked to do: the options that decide its result, and those that do not."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from frspec_cli.errors import UsageError, not_one_of, option
from frspec_cli.tokens.template_options import TemplateOptions

if TYPE_CHECKING:
    from frspec_cli.corpus.documents import Fields

LEDGER_VERSION = 3
"""Part of a ledger's key: raised whenever the same text would be counted or recorded differently."""
ENCODERS = ("auto", "fast", "reference")
ENGINES = ("local", "ray")
DOCUMENT_BYTES = {"fast": 16 << 20, "reference": 4 << 20}
"""Text of one document by encoder, unless an option says otherwise: the reference takes 130 to 330 bytes of memory for each
(a document of 15 MB: 1.9 GB), and a text that is cut does not give the same ids."""


@dataclass(frozen=True)
class CountOptions:
    """Options that decide the counts.

    text_field, source_field: dotted names of the text's and the label's field; None looks for the usual ones.
    max_document_bytes: longer records are skipped; None means what the encoder takes (`DOCUMENT_BYTES`).
    limit_documents, limit_tokens: exact, in the corpus's order; the last document is cut where the tokens end.
    assistant_only: of conversations, only what the assistant said.
    document_frequency: also count the documents that hold each token.
    until_stable: stop once the coverage that the top `stable_k` is expected to lose is below it.
    skip_broken_files: leave damaged files out and list them.
    assistant_role: a role, such as a model's name, that means the assistant.
    split_on: the string between documents in a file of plain text, such as <|endoftext|>.
    preformatted: texts hold the chat template's own tokens, which are counted as tokens, not as text.
    template: what the user says about the chat template.
    """

    text_field: str | None = None
    source_field: str | None = None
    max_document_bytes: int | None = None
    limit_documents: int | None = None
    limit_tokens: int | None = None
    assistant_only: bool = False
    document_frequency: bool = False
    until_stable: float | None = None
    stable_k: int = 32768
    skip_broken_files: bool = False
    assistant_role: str | None = None
    split_on: str | None = None
    preformatted: bool = False
    template: TemplateOptions = field(default_factory=TemplateOptions)

    def __post_init__(self) -> None:
        for name in ("limit_documents", "limit_tokens", "max_document_bytes", "stable_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{option(name)} must be at least 1, not {value}.")
        if self.preformatted and self.assistant_only:
            raise UsageError(
                f"{option('preformatted')} counts whole texts: it does not go with {option('assistant_only')}.",
                hint="Only conversations (fields messages or conversations) record who said what.",
            )
        if self.until_stable is not None and not 0 < self.until_stable < 1:
            raise UsageError(
                f"{option('until_stable')} is a share of all tokens between 0 and 1, not {self.until_stable:g}."
            )

    def fields(self, encoder: str) -> Fields:
        """Where records keep what is counted, and how long they may be for that encoder."""
        from frspec_cli.corpus.documents import Fields  # needs numpy, which the command line's help does without

        return Fields(
            text=self.text_field,
            source=self.source_field,
            longest=self.max_document_bytes or DOCUMENT_BYTES[encoder],
            assistant_only=self.assistant_only,
            assistant_role=self.assistant_role,
            split_on=self.split_on,
        )

    def recorded(self) -> dict[str, Any]:
        """The options that were given, for a table's metadata and a ledger's key."""
        defaults = asdict(CountOptions())
        given = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        if self.until_stable is not None:
            given["stable_k"] = self.stable_k
        given.pop("template", None)
        if self.template.source is not None:
            given["chat_template"] = hashlib.sha256(self.template.source.encode()).hexdigest()
        if self.template.arguments:
            given["template_arg"] = dict(self.template.arguments)
        return given


@dataclass(frozen=True)
class RunOptions:
    """Options that do not change the result.

    encoder: `auto`, `fast` or `reference`.
    workers: processes at work at once; None: one for each core.
    engine: `local` or `ray`.
    max_bad: the share of bad records that is tolerated.
    shard: (I, N), 1 <= I <= N: of the corpus's shards every N-th, from the I-th on.
    restart: forget what a stopped run has counted; make a complete table anew.
    force: replace what is at the output, whatever made it.
    """

    encoder: str = "auto"
    workers: int | None = None
    engine: str = "local"
    max_bad: float = 0.01
    shard: tuple[int, int] = (1, 1)
    restart: bool = False
    force: bool = True

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"{option('workers')} must be at least 1, not {self.workers}.")
        if self.encoder not in ENCODERS:
            raise not_one_of("encoder", self.encoder, ENCODERS)
        if self.engine not in ENGINES:
            raise not_one_of("engine", self.engine, ENGINES)
        if not 0 <= self.max_bad <= 1:
            raise UsageError(f"{option('max_bad')} is a share between 0 and 1, not {self.max_bad:g}.")
        index, count = self.shard
        if not 1 <= index <= count:
            raise UsageError(f"{option('shard')} is I/N with 1 <= I <= N, not {index}/{count}.")
