"""Attacks frspec: kills at random moments, damaged and hostile files, pickles, templates, full disks, two runs at once.

    python -m benchmarks.attack [--seed N] [--kind K...] [--trials-share 1.0] [--out FILE]

Each trial is a process of its own, so that a crash is a result and not the end. A trial fails if it ends in a traceback, a
crash or a hang, if a pickle's code ran, if records are neither counted nor skipped, or if a run that was killed and started
again writes other bytes or leaves anything behind. Prints kinds, trials and failures; the seed repeats the run.
Exit code 3 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.attack.damage import artifacts, flips, truncations
from benchmarks.attack.hostile import pickles, records, templates
from benchmarks.attack.interrupts import full_disk, kills, two_at_once
from benchmarks.attack.made import make_files
from benchmarks.attack.trials import SECONDS, Trials, in_a_process

MAKING_SECONDS = 300
_LOADED_ONCE = ("torch", "tokenizers", "pyarrow.parquet", "pyarrow.ipc", "transformers.models.llama.modeling_llama")
_LOADED_ONCE += ("transformers.generation.utils", "frspec_cli.cli.app", "frspec_cli.counting.count")
_LOADED_ONCE += ("frspec_cli.inspection", "frspec_cli.training.run", "frspec_cli.decoding.pipeline")
_LOADED_ONCE += tuple(
    f"frspec_cli.subsets.{name}" for name in ("build", "coverage_session", "exporting", "importing", "load")
)

# The longest first: as many kinds run at once as there are cores.
KINDS: dict[str, Callable[[Path, random.Random, float], Trials]] = {
    "kills": kills,
    "artifacts": artifacts,
    "bit flips": flips,
    "pickles": pickles,
    "truncations": truncations,
    "two at once": two_at_once,
    "full disk": full_disk,
    "templates": templates,
    "records": records,
}
_SECONDS = {"kills": 300, "full disk": 180, "two at once": 180}
"""For kinds whose trials run commands from the start, several times."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the attacks; the exit code, 3 if anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=None, help="as printed by the run that is to be repeated")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these kinds")
    parser.add_argument("--trials-share", type=float, default=1.0, help="of the usual number of trials")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="frspec-attack-") as folder:
        made = Path(folder) / "made"
        made.mkdir()
        if reason := in_a_process(lambda: make_files(made) or "", seconds=MAKING_SECONDS, memory=None):
            raise SystemExit(f"the files to attack could not be made: {reason}")
        for module in _LOADED_ONCE:  # and not in every trial
            with contextlib.suppress(ImportError):  # an earlier frspec has other modules
                importlib.import_module(module)
        chosen = [kind for kind in KINDS if kind in (options.kind or KINDS)]
        run_kind = functools.partial(attack, made, seed, options.trials_share)
        with multiprocessing.get_context("fork").Pool(min(len(chosen), os.cpu_count() or 1)) as pool:
            rows = pool.map(run_kind, chosen, chunksize=1)
    seconds = time.monotonic() - began
    total = {
        "kind": "all",
        "seconds": seconds,
        **{name: sum(row[name] for row in rows) for name in ("trials", "failures")},
    }
    print("\n".join(map(_line, [*rows, total])))
    if options.out:
        options.out.write_text(json.dumps({"seed": seed, "seconds": seconds, "kinds": rows}, indent=2) + "\n")
    return 3 if total["failures"] else 0


def attack(made: Path, seed: int, share: float, kind: str) -> dict:
    """Runs the trials of a kind, and prints failures as they come; a row of the table."""
    began, failures, number = time.monotonic(), [], 0
    for name, trial in KINDS[kind](made, random.Random(f"{seed} {kind}"), share):
        number += 1
        if reason := in_a_process(trial, seconds=_SECONDS.get(kind, SECONDS)):
            failures.append(f"{name}: {reason}")
            print(f"  {kind}, {name}: {reason}", flush=True)
    seconds = time.monotonic() - began
    print(f"  {kind}: done in {seconds:.0f} s", flush=True)
    return {"kind": kind, "trials": number, "failures": len(failures), "seconds": seconds, "what": failures}


def _line(row: dict) -> str:
    return f"{row['kind']:<12} {row['trials']:>6,} trials {row['failures']:>5,} failures {row['seconds']:>7.1f} s"


if __name__ == "__main__":
    sys.exit(main())
