"""A corpus's counts from its shards': they come back in any order, and are added in the corpus's order.

Limits, stopping rules and the share of bad records are decided on that order at the shards' boundaries, so that the
bytes written depend neither on workers nor on which shard is finished first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from frspec_cli.corpus.documents import Reason
from frspec_cli.corpus.shards import LINE_FORMATS, Shard
from frspec_cli.counting.accumulator import CountAccumulator, ShardCounts
from frspec_cli.counting.ledger import Ledger
from frspec_cli.counting.stability import expected_loss
from frspec_cli.counting.worker import ShardCounter, ShardTask
from frspec_cli.errors import FrspecError, option

JOIN_AFTER = 64
"""Ledger entries that are joined at once."""
EARLY_BAD_LINES = 10_000
"""Records after which too large a share of bad ones ends the run at the next shard's boundary, not at the end."""
STABLE_STEP = 1.05
"""How much more text there must be before the stopping rule is looked at again."""


@dataclass
class Counted:
    """The corpus so far, in its order: as many shards from its beginning as `shards` has records.

    stopped: the option because of which no further shard is needed; "" while one is.
    """

    accumulator: CountAccumulator
    shards: list[dict[str, Any]] = field(default_factory=list)
    examples: list[tuple[str, int, str, str]] = field(default_factory=list)
    documents: int = 0
    tokens: int = 0
    lines: int = 0
    bad: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    stopped: str = ""

    def add(self, part: ShardCounts) -> None:
        """Adds the next shard's counts, or those of several at once."""
        self.accumulator.add_part(part)
        self.examples += part.examples if len(part.shards) > 1 else self._in_the_whole_file(part)
        self.shards += part.shards
        self.documents += part.total("documents")
        self.tokens += part.total("tokens")
        self.lines += part.total("lines")
        for shard in part.shards:
            self.skipped.update(shard["skipped"])
            self.bad += bad_records(shard)

    def _in_the_whole_file(self, part: ShardCounts) -> list[tuple[str, int, str, str]]:
        """A shard's examples, their lines counted from the file's beginning if all pieces before it are here."""
        [shard] = part.shards
        start = shard.get("start", 0)
        if not start or shard["format"] not in LINE_FORMATS:  # only these are split into pieces of a file
            return part.examples
        before = [other for other in self.shards if other["path"] == shard["path"]]
        if sum(other["size"] for other in before) != start:
            suffix = f" (from byte {start:,} on)"
            return [(name + suffix, line, reason, detail) for name, line, reason, detail in part.examples]
        lines = sum(other["lines"] for other in before)
        return [(name, line + lines, reason, detail) for name, line, reason, detail in part.examples]

    def part(self) -> ShardCounts:
        """All of it as one part, for the ledger."""
        part = self.accumulator.part()
        part.shards, part.examples = self.shards, self.examples
        return part


class CorpusRun:
    """One run over a corpus: says which tasks are left, and takes their counts.

    counter: counts single tasks in this process (the shard that a limit cuts).
    max_bad: the share of bad records that is tolerated.
    finished: gets the size of each shard that is counted and saved.
    """

    def __init__(
        self,
        shards: list[Shard],
        counter: ShardCounter,
        *,
        max_bad: float,
        ledger: Ledger,
        finished: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.shards = shards
        self.counter = counter
        self.options = counter.options
        self.max_bad = max_bad
        self.ledger = ledger
        self.finished = finished
        self.counted = Counted(counter.accumulator())
        self._waiting: dict[int, int] = {}  # entries of the ledger that are not added yet: first shard -> last
        self._joined = 0  # shards whose ledger entries are joined

    def resume(self) -> None:
        """Adds what the ledger holds, as far as the corpus's order allows."""
        self._waiting = dict(self.ledger.entries())
        self._add_waiting()

    def missing(self) -> list[int]:
        """The shards that are not counted yet, in order."""
        waiting = {index for first, last in self._waiting.items() for index in range(first, last + 1)}
        return [index for index in range(len(self.counted.shards), len(self.shards)) if index not in waiting]

    def tasks(self) -> Iterator[ShardTask]:
        """What is left to count; ends once no further shard is needed."""
        for index in self.missing():
            if self.counted.stopped:
                return
            yield ShardTask(index, self.shards[index], self.options.limit_documents, self.options.limit_tokens)

    def add(self, index: int, part: ShardCounts) -> None:
        """Saves a shard's counts, and adds what the corpus's order allows. Raises `FrspecError` for too many bad records."""
        self.ledger.put(index, index, part)
        self.finished(self.shards[index].size)
        if index == len(self.counted.shards):
            self._add(index, index, part)
            self._add_waiting()
        else:
            self._waiting[index] = index  # left to the ledger, so that memory does not grow with the corpus

    def finish(self) -> Counted:
        """The whole. Raises `FrspecError` for too many bad records."""
        self._judge(final=True)
        return self.counted

    def _add_waiting(self) -> None:
        while not self.counted.stopped and (first := len(self.counted.shards)) in self._waiting:
            last = self._waiting.pop(first)
            self._add(first, last, self.ledger.get(first, last))

    def _add(self, first: int, last: int, part: ShardCounts) -> None:
        """Adds the counts of the shards `first` to `last`, which come next in the corpus."""
        before = self.counted.tokens
        if first == last:
            self.counted.add(self._cut(first, part))
        else:
            self.counted.add(part)  # an earlier run joined them, so no limit was reached in them
            self._joined = last + 1
        self._decide(before)
        if len(self.counted.shards) - self._joined >= JOIN_AFTER and not self.counted.stopped:
            self._joined = len(self.counted.shards)
            self.ledger.join(self._joined - 1, self.counted.part())

    def _cut(self, index: int, part: ShardCounts) -> ShardCounts:
        """The part, or if a limit is reached inside it the shard counted again up to the limit."""
        documents, tokens = self.options.limit_documents, self.options.limit_tokens
        left_documents = None if documents is None else documents - self.counted.documents
        left_tokens = None if tokens is None else tokens - self.counted.tokens
        over = (left_documents is not None and part.total("documents") > left_documents) or (
            left_tokens is not None and part.total("tokens") > left_tokens
        )
        return self.counter.count(ShardTask(index, self.shards[index], left_documents, left_tokens)) if over else part

    def _decide(self, tokens_before: int) -> None:
        """Decides at a shard's boundary whether further shards are needed."""
        counted, options = self.counted, self.options
        if options.limit_documents is not None and counted.documents >= options.limit_documents:
            counted.stopped = "limit_documents"
        elif options.limit_tokens is not None and counted.tokens >= options.limit_tokens:
            counted.stopped = "limit_tokens"
        elif options.until_stable is not None and _step(counted.tokens) > _step(tokens_before):
            # Looked at whenever the text has grown by a step, so the cost does not grow with the number of shards.
            loss = expected_loss(counted.accumulator.by_fold(), options.stable_k)
            counted.stopped = "until_stable" if loss < options.until_stable else ""
        self._judge(final=False)

    def _judge(self, *, final: bool) -> None:
        lines, bad = self.counted.lines, self.counted.bad
        if (final or lines >= EARLY_BAD_LINES) and bad > self.max_bad * lines:
            if _is_wrong_field(self.counted) or not self.counted.documents:
                self.ledger.forget()  # nothing in it is worth resuming
            raise FrspecError(_too_many_bad(self.counted, self.max_bad), hint=_bad_hint(self.counted))


def bad_records(shard: dict[str, Any]) -> int:
    """Records that count as bad: those that are skipped, and conversations of which a turn is skipped.

    Empty ones do not count if they are files or lines of plain text.
    """
    harmless = shard["skipped"].get(Reason.EMPTY, 0) if shard["format"] in ("text", "lines") else 0
    return sum(shard["skipped"].values()) + shard.get("partly_skipped", 0) - harmless


def _step(tokens: int) -> int:
    return int(math.log(tokens) / math.log(STABLE_STEP)) if tokens else -1


def _too_many_bad(counted: Counted, max_bad: float) -> str:
    counts = sorted(counted.skipped.items())
    if partly := sum(shard.get("partly_skipped", 0) for shard in counted.shards):
        counts.append(("with a skipped turn", partly))
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts)
    share = (
        f"{counted.bad:,} of {counted.lines:,} records ({counted.bad / counted.lines:.1%}) are bad ({reasons}), "
        f"more than {100 * max_bad:.3g}%"
    )
    first = min(counted.examples, key=lambda example: example[2] == Reason.EMPTY)
    return f"{share}; for instance {in_words(first)}."


def in_words(example: tuple[str, int, str, str]) -> str:
    """Where a skipped record is, and why it was skipped."""
    name, line, reason, detail = example
    return f"{name}{f', line {line:,}' if line else ''}: {reason}{f' ({detail})' if detail else ''}"


def _is_wrong_field(counted: Counted) -> bool:
    return counted.skipped[Reason.MISSING] * 2 > counted.lines


def _bad_hint(counted: Counted) -> str:
    if _is_wrong_field(counted):
        return f"Name the field that holds the text with {option('text_field')}."
    if advice := too_long_advice(counted.shards):
        return advice
    if counted.skipped[Reason.TOO_LONG] * 2 > counted.bad:
        return f"Take longer documents with {option('max_document_bytes')}; what is counted already is kept."
    if not counted.documents:
        return "Not one record of it is text: is this the right file?"
    return f"To accept more bad records, raise {option('max_bad')}; what is counted already is kept."


def too_long_advice(shards: list[dict[str, Any]]) -> str:
    """What to do about files of plain text that are too long to be one document; "" if there is none."""
    if not any(shard["format"] == "text" and shard["skipped"].get(Reason.TOO_LONG) for shard in shards):
        return ""
    return (
        f"A file of plain text is one document: {option('lines')} makes each of its lines one, {option('split_on')} STRING "
        f"what is between separators, and {option('max_document_bytes')} allows longer ones."
    )
