"""Every result of one model that this project publishes, and RESULTS.md over all models: `make results MODEL=NAME SUITE=FILE`.

    python -m benchmarks.results --model M --suite question.jsonl [--prompts 84] [--untimed] [--draft D] [--vocab S]

Which runs make up the results is `plan`. Each is an ordinary frspec command; it works under out/results/M, where a stopped
one resumes and a finished one is not run again, and what it found is copied to data/results, with the command and the
machine. --untimed leaves out what has to be timed: acceptance does not depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.results_page import results_page
from frspec_cli import storage
from frspec_cli.answers.tasks import stratified_sample, tasks
from frspec_cli.environment import environment
from frspec_cli.errors import FrspecError, as_flags
from frspec_cli.models.locate import locate_model
from frspec_cli.models.shipped import shipped_for
from frspec_cli.report.results import read_results
from frspec_cli.resume import INPUTS
from frspec_cli.subsets.subset import VocabularySubset
from frspec_cli.tuning.shapes import ModelShape

SHARES = (2, 4, 8, 16, 32, 64)
"""Subset sizes are the vocabulary over these."""
_MOST_SIZES = 4
_ROOT = Path(__file__).resolve().parent.parent
Execute = Callable[[Sequence[str]], tuple[int, str]]
"""Runs `frspec ARGUMENTS`: (exit code, stdout)."""


@dataclass(frozen=True)
class Settings:
    """What the results are of.

    suite: prompts, such as Spec-Bench's question.jsonl; `prompts` of them are used, equally many of each task.
    work: where runs keep their parts. out: the folder of published results. page: RESULTS.md.
    draft, vocab, counts: default to what ships for the model.
    runs: how often everything timed is measured.
    more: options of every command that loads the model.
    """

    model: str
    suite: Path
    work: Path
    out: Path
    page: Path
    prompts: int = 84
    new_tokens: int = 96
    runs: int = 3
    timed: bool = True
    tree: tuple[int, int, int] = (5, 4, 16)
    slots: tuple[int, ...] = (0, 64, 256, 1024)
    draft: str | None = None
    vocab: Path | None = None
    counts: Path | None = None
    more: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Run:
    """One command.

    name: of its result under `out`, behind the model's; "" if it only prepares.
    made: what it writes.
    printed: whether its result is what it prints.
    """

    name: str
    made: Path
    arguments: tuple[str, ...]
    timed: bool = False
    printed: bool = False


def plan(settings: Settings, sizes: Sequence[int], vocab: Path, corpora: Sequence[str]) -> Iterator[Run]:
    """Every run, in order. sizes: of the subset, largest first. corpora: sources of the counts that get a subset each."""
    work, counts = settings.work, settings.counts
    prompts, answers = work / "prompts.jsonl", work / "answers.jsonl"
    model = ("--model", settings.model, *settings.more)
    draft = ("--draft", settings.draft) if settings.draft else ()
    head = (*model, *draft)
    own = ("--vocab", str(vocab))
    ks = tuple(word for size in sizes for word in ("--k", str(size)))
    tree = ",".join(map(str, settings.tree))
    count = ("--max-new-tokens", str(settings.new_tokens))
    yield Run("", answers, ("collect", str(prompts), *model, *count, "--out", str(answers)))
    subsets = [vocab]
    for source in corpora:
        subsets.append(work / f"subset-{source}.parquet")
        cut = (
            "build-vocab",
            str(counts),
            "--model",
            settings.model,
            "--mix",
            f"{source}=1",
            "--k",
            str(sizes[0]),
            "--pad",
        )
        yield Run("", subsets[-1], (*cut, "--out", str(subsets[-1])))
    vocabs = tuple(word for subset in subsets for word in ("--vocab", str(subset)))
    made = work / "acceptance.json"
    replay = ("replay", str(answers), *head, "--tree", tree)
    yield Run("acceptance", made, (*replay, *vocabs, *ks, "--out", str(made)))
    made = work / "context-slots.json"
    slots = tuple(word for each in settings.slots for word in ("--context-slots", str(each)))
    few = tuple(word for size in dict.fromkeys(sizes[1::2] or sizes) for word in ("--k", str(size)))
    yield Run("context-slots", made, (*replay, *own, *few, *slots, "--out", str(made)))
    made = work / "coverage.json"
    on = tuple(map(str, subsets))
    yield Run("coverage", made, ("coverage", *on, "--on", str(answers), *ks, "--json"), printed=True)
    suite = ("--suite", str(prompts), *head, *own, *count, "--runs", str(settings.runs))
    methods = ("--methods", "ar,eagle,frspec,lookup,transformers")
    for name, more in (
        ("speed", (*methods, *ks, "--tree", tree)),
        ("speed-tuned", methods),
        ("speed-sampled", (*methods, *ks[2:4], "--tree", tree, "--temperature", "1")),
    ):
        made = work / f"{name}.json"
        yield Run(name, made, ("bench", *suite, *more, "--out", str(made)), timed=True)
    made = work / "cycle.json"
    depth, beam, nodes = map(str, settings.tree)
    shape = ("--depth", depth, "--beam", beam, "--nodes", nodes)
    profile = ("profile", "--suite", str(prompts), "--limit", "12", *head, *own, *ks, *shape, *count)
    yield Run("cycle", made, (*profile, "--out", str(made)), timed=True)


def make_results(settings: Settings, execute: Execute, say: Callable[[str], None]) -> list[Path]:
    """Runs what is missing of the plan, publishes it, and writes the page; returns the published files.

    Raises `FrspecError` if a run fails, and for a model without head or subset.
    """
    shipped = shipped_for(settings.model)
    vocab = settings.vocab or shipped.subset
    if vocab is None or not (settings.draft or shipped.head):
        raise FrspecError(
            f"nothing ships for {settings.model}.", hint="Name a head and a subset with --draft and --vocab."
        )
    if settings.counts is None and shipped.counts is not None and settings.vocab is None:
        settings = Settings(**{**settings.__dict__, "counts": shipped.counts})
    subset = VocabularySubset.read(vocab)
    rows = ModelShape.of(settings.model, locate_model(settings.model)).rows
    sizes = [rows // share for share in SHARES if subset.forced <= rows // share <= subset.k][:_MOST_SIZES]
    if not sizes:
        raise FrspecError(f"{vocab} has {subset.k:,} tokens, fewer than any size that is looked at.")
    settings.work.mkdir(parents=True, exist_ok=True)
    storage.write_text(settings.work / "prompts.jsonl", sample(settings.suite, settings.prompts))
    published = []
    for run in plan(settings, sizes, vocab, _corpora(settings.counts)):
        if run.timed and not settings.timed:
            continue
        say(f"frspec {_command(run.arguments)}")
        code, printed = execute(run.arguments)
        if code:
            raise FrspecError(
                f"frspec {run.arguments[0]} ended with exit code {code}.", hint="make results goes on from there."
            )
        if run.printed:
            storage.write_text(run.made, printed)
        if run.name:
            published.append(publish(run, settings, vocabulary=rows))
    found = read_results(sorted(settings.out.glob("*.json"), key=lambda file: file.stem))
    storage.write_text(settings.page, results_page(found))
    return published


def sample(suite: Path, count: int) -> str:
    """JSONL of `count` prompts, equally many of each task, each with its task as `category`."""
    records = [json.loads(line) for line in suite.read_text(encoding="utf-8").splitlines() if line.strip()]
    labels = tasks([str(record.get("category", "")) for record in records])
    chosen = [records[index] | {"category": labels[index]} for index in stratified_sample(labels, count)]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in chosen)


def publish(run: Run, settings: Settings, *, vocabulary: int) -> Path:
    """Copies a run's result to `out`, with its command, the machine and the model's rows, without paths of this machine."""
    record = storage.read_json(run.made)
    record["command"] = f"frspec {_command(run.arguments)}"
    record["vocabulary"] = vocabulary
    record["environment"] = {**record.get("environment", environment())}
    record["environment"].pop("cache", None)
    record.pop(INPUTS, None)  # what a run resumes by: sizes and digests of files, and their paths
    model = settings.model.rstrip("/").rpartition("/")[2]
    made = settings.out / f"{model}-{run.name}.json"
    settings.out.mkdir(parents=True, exist_ok=True)
    storage.write_text(made, json.dumps(_without_paths(record), ensure_ascii=False, separators=(",", ":")) + "\n")
    return made


def _corpora(counts: Path | None) -> list[str]:
    """The sources of a frequency table, if it has several."""
    if counts is None:
        return []
    from frspec_cli.counting.table import FrequencyTable

    sources = list(FrequencyTable.read(counts).sources)
    return sources if len(sources) > 1 else []


def _without_paths(value: Any) -> Any:
    """Files of this checkout by their path inside it, others by their name."""
    if isinstance(value, dict):
        return {name: _without_paths(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    return _relative(value) if isinstance(value, str) and value.startswith("/") else value


def _relative(word: str) -> str:
    path = Path(word)
    if not path.is_absolute():
        return word
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else path.name


def _command(arguments: Sequence[str]) -> str:
    return shlex.join(map(_relative, arguments))


def _execute(arguments: Sequence[str]) -> tuple[int, str]:
    """In a process of its own: what is timed shares memory with nothing that ran before."""
    done = subprocess.run(
        [sys.executable, "-m", "frspec_cli", *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    if "--json" not in arguments:
        _say(done.stdout.rstrip())
    return done.returncode, done.stdout


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None, execute: Execute = _execute) -> None:
    """The command line in the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--suite", type=Path, required=True, help="prompts, such as Spec-Bench's question.jsonl")
    parser.add_argument("--work", type=Path, help="default: out/results/MODEL")
    parser.add_argument("--out", type=Path, default=Path("data/results"))
    parser.add_argument("--page", type=Path, default=Path("RESULTS.md"))
    parser.add_argument("--prompts", type=int, default=Settings.prompts)
    parser.add_argument("--new-tokens", type=int, default=Settings.new_tokens)
    parser.add_argument("--runs", type=int, default=Settings.runs)
    parser.add_argument("--draft")
    parser.add_argument("--vocab", type=Path)
    parser.add_argument("--counts", type=Path, help="a frequency table; each of its sources gets a subset of its own")
    parser.add_argument("--slots", type=int, nargs="+", default=list(Settings.slots))
    parser.add_argument("--dtype")
    parser.add_argument("--device")
    parser.add_argument("--untimed", action="store_true", help="leave out what has to be timed")
    given = vars(parser.parse_args(arguments))
    more = [word for name in ("dtype", "device") if (value := given.pop(name)) for word in (f"--{name}", value)]
    given["work"] = given["work"] or Path("out/results") / Path(given["model"]).name
    given |= {"timed": not given.pop("untimed"), "slots": tuple(given["slots"]), "more": tuple(more)}
    try:
        published = make_results(Settings(**given), execute, _say)
    except FrspecError as error:
        sys.exit(as_flags(f"error: {error.message} {error.hint or ''}".rstrip()))
    sys.stdout.write(json.dumps({"page": str(given["page"]), "results": list(map(str, published))}) + "\n")


if __name__ == "__main__":
    main()
