"""How fast counting is, in one run: the published FR-Spec script's loop, the encoder alone, and `frspec count-freq`.

    python -m benchmarks.counting [SOURCE...] [--tokenizer T] [--workers N] [--plain-mb 4] [--memory] [--out FILE]

- plain loop: documents one by one, `encode` into a Counter (no special tokens, as it should be), over the first
  `--plain-mb` of the text, reading included.
- encoder alone: all text in memory, one pass in a fresh process with as many threads as workers, ids counted by bincount.
- count-freq: the command as a user types it, from files to parquet, in a fresh process; start-up is the same command on a
  file of one word, and is part of the total.

Counts are compared id by id: the loop's with count-freq's over the same documents, the encoder's with count-freq's over
all. A difference fails the run. Only the ratios within one run say anything: the machine is the same for all three.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from frspec_cli import outputs, storage
from frspec_cli.corpus.documents import Document, Fields
from frspec_cli.corpus.reading import read_shard
from frspec_cli.corpus.sources import find_shards
from frspec_cli.counting.count import available_cores, count_corpus
from frspec_cli.counting.options import CountOptions, RunOptions
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.errors import FrspecError, VerificationError, as_flags
from frspec_cli.models.locate import locate_tokenizer
from frspec_cli.tokens.encoder import Encoder, ReferenceEncoder
from frspec_cli.tokens.fast import FastEncoder, FastEncoderRefuses
from frspec_cli.tokens.tokenizer import load_tokenizer

BATCH = 512
SAMPLE_SECONDS = 0.1


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark, writes one JSON object to stdout; the exit code, 3 if counts differ."""
    options = _parse(arguments)
    if options.encoder_alone:
        _write(_encoder_alone(options.sources, options.tokenizer, options.workers, Path(options.out)))
        return 0
    try:
        if options.out:
            outputs.check(options.out, inputs=options.sources, replaces=outputs.JSON, what="a result")
        with tempfile.TemporaryDirectory() as folder:
            result = run(options, Path(folder))
        if options.out:
            storage.write_json(options.out, result)
    except FrspecError as error:
        sys.stderr.write(f"error: {as_flags(error.message)}\n")
        return error.exit_code
    _write(result)
    return 0


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All three ways over the same text. Raises `VerificationError` if two of them count differently."""
    plain = _plain_loop(options, folder)
    startup = _startup(options, folder)
    out = folder / "counts.parquet"
    seconds, figures = _count_freq(options, options.sources, out)
    table = FrequencyTable.read(out)
    alone = _alone(options, folder, table)
    result = {
        "tokenizer": options.tokenizer,
        "workers": options.workers,
        "plain_loop": plain,
        "encoder_alone": alone,
        "count_freq": {
            "encoder": figures["encoder"],
            "megabytes": figures["bytes"] / 1e6,
            "tokens": figures["tokens"],
            "seconds": seconds,
            "startup_seconds": startup,
            "megabytes_per_second": figures["bytes"] / 1e6 / seconds,
        },
    }
    speed = result["count_freq"]["megabytes_per_second"]
    result["times_the_plain_loop"] = speed / plain["megabytes_per_second"]
    result["share_of_the_encoder_alone"] = speed / alone["megabytes_per_second"]
    if options.memory:
        result["peak_pss_megabytes"] = _peak_memory(options, folder)
    return result


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counting", description=__doc__.split("\n")[0])
    stdlib = str(Path(sysconfig.get_path("stdlib"), "**", "*.py"))
    parser.add_argument(
        "sources", nargs="*", default=[stdlib], help="default: the sources of Python's standard library"
    )
    parser.add_argument("--tokenizer", default="smollm2-135m")
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--plain-mb", type=float, default=4.0, help="text that the plain loop is timed on")
    parser.add_argument("--memory", action="store_true", help="one more run, watching the memory of the process tree")
    parser.add_argument("--out", help="also write the JSON object to this file")
    parser.add_argument("--encoder-alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _documents(sources: list[str]) -> Iterator[Document]:
    for shard in find_shards(sources):
        for item in read_shard(shard, Fields(), None):
            if isinstance(item, Document):
                yield item


def _plain_loop(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    backend = load_tokenizer(options.tokenizer).backend
    counts: Counter[int] = Counter()
    size = documents = 0
    began = time.perf_counter()
    for document in _documents(options.sources):
        counts.update(backend.encode(document.text, add_special_tokens=False).ids)
        size += len(document.data)
        documents += 1
        if size >= options.plain_mb * 1e6:
            break
    seconds = time.perf_counter() - began
    how, limited = RunOptions(workers=1), CountOptions(limit_documents=documents)
    shards = find_shards(options.sources)
    table = count_corpus(shards, options.tokenizer, folder / "same.parquet", options=limited, how=how).table
    _check(table.totals(), counts, "the plain loop")
    return {"megabytes": size / 1e6, "seconds": seconds, "megabytes_per_second": size / 1e6 / seconds}


def _check(totals: np.ndarray, counts: Counter[int], name: str) -> None:
    other = np.zeros_like(totals)
    other[list(counts)] = list(counts.values())
    differ = np.flatnonzero(totals != other)
    if len(differ):
        first = int(differ[0])
        raise VerificationError(
            f"count-freq and {name} differ at {len(differ)} ids; the first is {first}: {totals[first]} and {other[first]}."
        )


def _count_freq(options: argparse.Namespace, sources: list[str], out: Path) -> tuple[float, dict[str, Any]]:
    command = [sys.executable, "-m", "frspec_cli", "count-freq", *sources, "--tokenizer", options.tokenizer]
    command += ["--out", str(out), "--workers", str(options.workers), "--json", "--quiet"]
    began = time.perf_counter()
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - began, json.loads(process.stdout)


def _startup(options: argparse.Namespace, folder: Path) -> float:
    word = folder / "word.txt"
    word.write_text("word\n")
    return _count_freq(options, [str(word)], folder / "word.parquet")[0]


def _alone(options: argparse.Namespace, folder: Path, table: FrequencyTable) -> dict[str, Any]:
    """The encoder alone, in a fresh process: its figures, once its counts (in a file) are those of the table."""
    counted = folder / "alone.npy"
    command = [sys.executable, "-m", __spec__.name, *options.sources, "--tokenizer", options.tokenizer]
    command += ["--workers", str(options.workers), "--encoder-alone", "--out", str(counted)]
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    totals = np.load(counted)
    _check(table.totals(), Counter({int(index): int(totals[index]) for index in np.flatnonzero(totals)}), "the encoder")
    return json.loads(process.stdout)


def _encoder_alone(sources: list[str], tokenizer: str, threads: int, out: Path) -> dict[str, Any]:
    documents = list(_documents(sources))
    texts, data = [document.text for document in documents], [document.data for document in documents]
    path = str(locate_tokenizer(tokenizer))
    loaded = load_tokenizer(tokenizer)
    try:
        encoder: Encoder = FastEncoder(path, parallel=threads > 1)
    except FastEncoderRefuses:
        encoder = ReferenceEncoder(loaded)
    totals = np.zeros(loaded.highest_id + 1, dtype=np.int64)
    began = time.perf_counter()
    for first in range(0, len(texts), BATCH):
        last = first + BATCH
        totals += np.bincount(encoder.encode(texts[first:last], data[first:last]).ids, minlength=len(totals))
    seconds = time.perf_counter() - began
    np.save(out, totals)
    size = sum(map(len, data)) / 1e6
    return {"encoder": encoder.name, "megabytes": size, "seconds": seconds, "megabytes_per_second": size / seconds}


def _peak_memory(options: argparse.Namespace, folder: Path) -> float:
    """The highest sum of proportional set sizes (PSS) over the command's process tree, in MB."""
    command = [sys.executable, "-m", "frspec_cli", "count-freq", *options.sources, "--tokenizer", options.tokenizer]
    command += ["--out", str(folder / "memory.parquet"), "--workers", str(options.workers), "--json", "--quiet"]
    peaks = [0]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peaks.append(sum(_pss(pid) for pid in _tree(process.pid)))
            time.sleep(SAMPLE_SECONDS)
    return max(peaks) / 1e3


def _tree(pid: int) -> list[int]:
    """The process and all below it (Linux)."""
    pids = [pid]
    for parent in pids:  # grows while it is walked
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                pids += map(int, children.read_text().split())
            except OSError:  # it ended meanwhile
                continue
    return pids


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it ended meanwhile
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


def _write(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    sys.exit(main())
