"""A whole corpus to a frequency table: tasks go out, parts come back in any order, and are added in the corpus's order.

Limits, stopping rules and the share of bad records are decided on that order at the shards' boundaries, so that the
bytes written depend neither on workers nor on which shard is finished first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from frspec_cli.corpus.documents import EMPTY, MISSING
from frspec_cli.corpus.shards import Shard
from frspec_cli.counting.accumulator import CountAccumulator, ShardCounts
from frspec_cli.counting.executors import Executor
from frspec_cli.counting.ledger import Ledger
from frspec_cli.counting.options import CountOptions
from frspec_cli.counting.stability import expected_loss
from frspec_cli.counting.worker import Progress, ShardTask
from frspec_cli.errors import FrspecError

JOIN_AFTER = 64
"""Ledger entries that are joined at once."""
EARLY_BAD_LINES = 10_000
"""Records after which too large a share of bad ones ends the run at the next shard's boundary, not at the end."""
STABLE_STEP = 1.05
"""How much more text there must be before the stopping rule is looked at again."""


@dataclass
class Counted:
    """The corpus so far, in its order: all shards before `shards`' length.

    stopped: why no further shard is needed, "" while one is.
    """

    tally: CountAccumulator
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
        self.tally.add_part(part)
        self.examples += part.examples if len(part.shards) > 1 else self._in_the_whole_file(part)
        self.shards += part.shards
        self.documents += part.total("documents")
        self.tokens += part.total("tokens")
        self.lines += part.total("lines")
        for shard in part.shards:
            self.skipped.update(shard["skipped"])
            self.bad += bad_records(shard)

    def _in_the_whole_file(self, part: ShardCounts) -> list[tuple[str, int, str, str]]:
        """A shard's examples, their lines counted from the file's beginning where all pieces before it are here."""
        [shard] = part.shards
        start = shard.get("start", 0)
        if not start or not part.examples:
            return part.examples
        before = [other for other in self.shards if other["path"] == shard["path"]]
        if sum(other["size"] for other in before) != start:
            suffix = f" (from byte {start:,} on)"
            return [(name + suffix, line, reason, detail) for name, line, reason, detail in part.examples]
        lines = sum(other["lines"] for other in before)
        return [(name, line + lines, reason, detail) for name, line, reason, detail in part.examples]

    def part(self) -> ShardCounts:
        """All of it as one part, for the ledger."""
        part = self.tally.part()
        part.shards, part.examples = self.shards, self.examples
        return part


class CorpusRun:
    """One run over a corpus. `counter` recounts single tasks in this process (the shard that a limit cuts)."""

    def __init__(
        self,
        shards: list[Shard],
        rows: int,
        options: CountOptions,
        *,
        max_bad: float,
        ledger: Ledger,
        recheck: Callable[[ShardCounts], None] = lambda part: None,
        finished: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.shards = shards
        self.options = options
        self.max_bad = max_bad
        self.ledger = ledger
        self.recheck = recheck
        self.finished = finished
        self.counted = Counted(CountAccumulator(rows, document_frequency=options.document_frequency))
        self._early: dict[int, int] = {}  # entries of the ledger that are not added yet: first shard -> last
        self._joined = 0

    def resume(self) -> int:
        """Takes up what the ledger holds; the number of shards that were counted before."""
        self._early = dict(self.ledger.entries())
        return sum(last - first + 1 for first, last in self._early.items())

    def run(
        self,
        engine: Executor,
        recount: Callable[[ShardTask], ShardCounts],
        progress: Progress,
        *,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Counted:
        """Counts what is not counted yet. meanwhile: what this process does while the first tasks are on their way.

        Raises `FrspecError` when too many records are bad.
        """
        self._drain(recount)
        try:
            engine.start(self._tasks())
            meanwhile()
            for index, part in engine.results(progress):
                self.recheck(part)
                self.ledger.put(index, index, part)
                self.finished(self.shards[index].size)
                self._early[index] = index
                self._drain(recount)
                if self.counted.stopped:
                    break
        finally:
            engine.close()
        self._judge(final=True)
        return self.counted

    def missing(self) -> list[int]:
        """The shards that are not counted yet, in order."""
        done = {index for first, last in self._early.items() for index in range(first, last + 1)}
        return [index for index in range(len(self.counted.shards), len(self.shards)) if index not in done]

    def _tasks(self) -> Iterator[ShardTask]:
        for index in self.missing():
            if self.counted.stopped:
                return
            yield ShardTask(index, self.shards[index], self.options.limit_documents, self.options.limit_tokens)

    def _drain(self, recount: Callable[[ShardTask], ShardCounts]) -> None:
        """Adds finished shards as far as the corpus's order allows."""
        while not self.counted.stopped and (first := len(self.counted.shards)) in self._early:
            last = self._early.pop(first)
            part = self.ledger.get(first, last)
            before = self.counted.tokens
            self.counted.add(self._cut(first, part, recount) if first == last else part)
            if first != last:
                self._joined = last + 1
            self._look(before)
            if len(self.counted.shards) - self._joined >= JOIN_AFTER and not self.counted.stopped:
                self._joined = len(self.counted.shards)
                self.ledger.join(self._joined - 1, self.counted.part())

    def _cut(self, index: int, part: ShardCounts, recount: Callable[[ShardTask], ShardCounts]) -> ShardCounts:
        """The part, or where a limit lies inside it the shard counted again up to the limit."""
        documents, tokens = self.options.limit_documents, self.options.limit_tokens
        left_documents = None if documents is None else documents - self.counted.documents
        left_tokens = None if tokens is None else tokens - self.counted.tokens
        over = (left_documents is not None and part.total("documents") > left_documents) or (
            left_tokens is not None and part.total("tokens") > left_tokens
        )
        return recount(ShardTask(index, self.shards[index], left_documents, left_tokens)) if over else part

    def _look(self, tokens_before: int) -> None:
        """Decides at a shard's boundary whether the run goes on."""
        counted, options = self.counted, self.options
        if options.limit_documents is not None and counted.documents >= options.limit_documents:
            counted.stopped = "--limit-documents"
        elif options.limit_tokens is not None and counted.tokens >= options.limit_tokens:
            counted.stopped = "--limit-tokens"
        elif options.until_stable is not None and _step(counted.tokens) > _step(tokens_before):
            # Looked at whenever the text has grown by a step, so the cost does not grow with the number of shards.
            loss = expected_loss(counted.tally.by_fold(), options.stable_k)
            counted.stopped = "--until-stable" if loss < options.until_stable else ""
        self._judge(final=False)

    def _judge(self, *, final: bool) -> None:
        lines = self.counted.lines
        bad = self.counted.bad
        if (final or lines >= EARLY_BAD_LINES) and bad > self.max_bad * lines:
            if _is_wrong_field(self.counted):
                self.ledger.forget()  # nothing in it is worth going on from
            raise FrspecError(_too_many_bad(self.counted, bad, self.max_bad), hint=_bad_hint(self.counted))


def bad_records(shard: dict[str, Any]) -> int:
    """Skipped records that count as bad. Empty ones do not where they are files or lines of plain text."""
    harmless = shard["skipped"].get(EMPTY, 0) if shard["format"] in ("text", "lines") else 0
    return sum(shard["skipped"].values()) - harmless


def _step(tokens: int) -> int:
    return int(math.log(tokens) / math.log(STABLE_STEP)) if tokens else -1


def _too_many_bad(counted: Counted, bad: int, max_bad: float) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counted.skipped.items()))
    share = (
        f"{bad:,} of {counted.lines:,} records ({bad / counted.lines:.1%}) are bad ({reasons}), more than {max_bad:.3g}"
    )
    first = min(counted.examples, key=lambda example: example[2] == EMPTY)
    return f"{share}; for instance {in_words(first)}."


def in_words(example: tuple[str, int, str, str]) -> str:
    """Where a skipped record stands, and why it was skipped."""
    name, line, reason, detail = example
    return f"{name}{f', line {line:,}' if line else ''}: {reason}{f' ({detail})' if detail else ''}"


def _is_wrong_field(counted: Counted) -> bool:
    return counted.skipped[MISSING] * 2 > counted.lines


def _bad_hint(counted: Counted) -> str:
    if _is_wrong_field(counted):
        return "Name the field that holds the text with --text-field."
    return "Allow a larger share with --max-bad; what is counted already is kept."
