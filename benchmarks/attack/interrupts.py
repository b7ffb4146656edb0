"""Runs that are killed, interrupted, out of room, or two at once: whole or not at all, and nothing left behind."""

from __future__ import annotations

import ctypes
import functools
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.attack.trials import COUNT, CPU, TRAIN, Trials, command, each, own_folder, run

CLONE_NEWNS = 0x00020000
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT)


class Case(NamedTuple):
    """A command without its output, and what the output must be."""

    arguments: tuple[object, ...]
    expected: Path


def cases(made: Path) -> dict[str, Case]:
    """The commands that take long enough to be stopped, or that write several files."""
    count = ("count-freq", made / "corpus", "-t", made / "tokenizer")
    model = ("--model", made / "model")
    return {
        "count-freq": Case((*count, *COUNT), made / "counts.parquet"),
        "build-vocab": Case(("build-vocab", made / "counts.parquet", "--k", 40), made / "subset.parquet"),
        "collect": Case(("collect", made / "prompts.jsonl", *model, "-n", 12, *CPU), made / "answers.jsonl"),
        "train-draft": Case(("train-draft", made / "answers.jsonl", *model, *TRAIN), made / "head"),
        "count-freq with workers": Case((*count, *COUNT[:-1], 2), made / "counts.parquet"),
    }


def kills(made: Path, chance: random.Random, share: float) -> Trials:
    """SIGKILL and SIGINT at random moments, two or three times, then to the end."""

    def trial(case: Case, seconds: float, ends: list[tuple[signal.Signals, float]]) -> str:
        with own_folder() as folder:
            out = folder / case.expected.name
            for sent, moment in ends:
                if reason := _end(case, out, sent, moment * seconds):
                    return reason
            finished = subprocess.run(command(*case.arguments, "-o", out), capture_output=True, check=False)
            return _failed("the last run", finished.returncode, finished.stderr) or _differences(out, case.expected)

    listed = list(cases(made).items())
    took: dict[str, float] = {}
    for index in each(15, share):
        name, case = listed[index % len(listed)]
        if name not in took:
            took[name] = _seconds(case)
        ends = [(chance.choice(SIGNALS), chance.uniform(0.1, 0.95)) for _ in range(chance.randint(2, 3))]
        shown = ", ".join(f"{sent.name} at {moment:.2f}" for sent, moment in ends)
        yield f"{name}, {shown}", functools.partial(trial, case, took[name], ends)


def _seconds(case: Case) -> float:
    """What an undisturbed run takes now."""
    with own_folder() as folder:
        began = time.monotonic()
        subprocess.run(command(*case.arguments, "-o", folder / case.expected.name), capture_output=True, check=False)
        return time.monotonic() - began


def _end(case: Case, out: Path, sent: signal.Signals, seconds: float) -> str:
    """Starts a run and ends it after so many seconds; a run that was faster is started again and ended earlier."""
    while True:
        process = subprocess.Popen(command(*case.arguments, "-o", out), stderr=subprocess.PIPE, start_new_session=True)
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            break
        seconds /= 2
        for path in out.parent.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if sent == signal.SIGINT:  # as a terminal does
        os.killpg(process.pid, sent)
    else:
        process.kill()
    _, err = process.communicate()
    # Before the first line of frspec runs, Ctrl-C is Python's to handle.
    if sent == signal.SIGINT and process.returncode not in (0, 130) and b"frspec_cli" in err:
        return _failed("SIGINT", process.returncode, err)
    return ""


def _failed(what: str, code: int, err: bytes) -> str:
    lines = err.decode("utf-8", "replace").strip().splitlines() or [""]
    return f"{what} ended with {code}: {lines[-1]}" if code else ""


def _differences(out: Path, expected: Path) -> str:
    """What is wrong with a finished output and its folder; "" if nothing."""
    allowed = {out.name, f"{out.name}.training"} if expected.is_dir() else {out.name}
    left = sorted({path.name for path in out.parent.iterdir()} - allowed | {p.name for p in out.parent.rglob(".*")})
    if left:
        return f"left behind: {left}"
    names = ("model.safetensors", "config.json") if expected.is_dir() else ("",)
    same = all((out / name).read_bytes() == (expected / name).read_bytes() for name in names)
    return "" if same else "other bytes than undisturbed"


def two_at_once(made: Path, chance: random.Random, share: float) -> Trials:
    """Two equal runs on one output: one may be refused, and the output is whole."""

    def trial(case: Case, apart: float) -> str:
        with own_folder() as folder:
            out = folder / case.expected.name
            line = command(*case.arguments, "-o", out)
            first = subprocess.Popen(line)
            time.sleep(apart)
            codes = {subprocess.run(line, check=False).returncode, first.wait()}
            if not codes <= {0, 1} or 0 not in codes:
                return f"exit codes {sorted(codes)}"
            return _differences(out, case.expected)

    listed = list(cases(made).items())
    for index in each(10, share):
        name, case = listed[index % len(listed)]
        apart = chance.uniform(0, 0.5)
        yield f"{name}, {apart:.2f} s apart", functools.partial(trial, case, apart)


def full_disk(made: Path, chance: random.Random, share: float) -> Trials:
    """A disk of a few pages: one sentence and nothing half-written; with more room the same command ends well.

    No trials where small disks may not be mounted.
    """
    if not _may_mount():
        return
    export = ("export-vocab", made / "subset.parquet", "--to", "speculators")
    listed = [*list(cases(made).items())[:4], ("export-vocab", Case(export, made / "pair"))]
    for index in each(25, share):
        name, case = listed[index % len(listed)]
        pages = max(1, round(_pages(case.expected) * chance.uniform(0, 1.5)))
        yield f"{name}, {pages} pages", functools.partial(_on_a_small_disk, case, pages)


def _on_a_small_disk(case: Case, pages: int) -> str:
    with own_folder() as folder:
        if not _mount(folder, f"{4 * pages}k"):
            return "the disk could not be mounted"
        out = folder / case.expected.name
        code = run(*case.arguments, "-o", out)
        if code not in (0, 1):
            return f"exit code {code}"
        if left := [path.name for path in folder.rglob(".*.tmp")]:
            return f"left behind: {left}"
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        if code := run(*case.arguments, "-o", out):
            return f"with room again it ended with {code}"
        reason = "" if case.expected.name == "pair" else _differences(out, case.expected)
        subprocess.run(["umount", folder], check=True)
        return reason


def _pages(path: Path) -> int:
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    training = path.with_name(path.name + ".training")
    files += training.rglob("*") if training.is_dir() else []
    return sum(1 + file.stat().st_size // 4096 for file in files)


def _mount(folder: Path, size: str) -> bool:
    """Mounts a tmpfs that only this process and its children see; whether it worked."""
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
            return False
        private = subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False).returncode == 0
        line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        return private and subprocess.run(line, capture_output=True, check=False).returncode == 0
    except (OSError, AttributeError):
        return False


def _may_mount() -> bool:
    child = os.fork()
    if child == 0:
        with own_folder() as folder:
            mounted = _mount(folder, "4k")
            subprocess.run(["umount", folder], capture_output=True, check=False)
        os._exit(0 if mounted else 1)
    return os.waitpid(child, 0)[1] == 0
