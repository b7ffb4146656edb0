"""Held-out acceptance length against the answered tokens that a head was trained on.

    python -m benchmarks.learning_curve NAME=RUN.training[,NEXT.training...] ... [--out curve.png]

A run that started from another's head (`train-draft --init`) is named after it, and its tokens add to that run's. Prints
one line for each validation; --out also draws them (.png, .pdf, .svg).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from frspec_cli import outputs
from frspec_cli.errors import FrspecError, as_flags
from frspec_cli.subsets.plot import check_picture, save_figure


@dataclass(frozen=True)
class Line:
    """One head's history, validation by validation.

    tokens: answered tokens trained on so far (each pass counts).
    lengths: the acceptance length there.
    """

    name: str
    tokens: tuple[int, ...]
    lengths: tuple[float, ...]


def read_line(argument: str) -> Line:
    """The history that NAME=FOLDER,FOLDER... names. Raises `FrspecError` if a folder holds no validation."""
    name, _, folders = argument.rpartition("=")
    trained, tokens, lengths = 0, [], []
    for folder in folders.split(","):
        path = Path(folder) / "metrics.jsonl"
        if not path.is_file():
            raise FrspecError(f"{folder} holds no metrics.jsonl.", hint="Name the folder OUT.training of a training.")
        for text in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(text)
            trained += record.get("tokens", 0)
            if "acceptance_length" in record:
                tokens.append(trained)
                lengths.append(record["acceptance_length"])
    if not tokens:
        raise FrspecError(f"{folders} holds no validation yet.", hint="See --validate-every of train-draft.")
    return Line(name or Path(folders.split(",")[-1]).name.removesuffix(".training"), tuple(tokens), tuple(lengths))


def draw(path: Path, lines: Sequence[Line]) -> None:
    """Writes the picture."""
    suffix = check_picture(path)
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with mpl.rc_context({"font.size": 9, "pdf.fonttype": 42, "svg.hashsalt": "frspec"}):
        figure, axes = plt.subplots(figsize=(7.0, 3.6), layout="constrained")
        for line, marker in zip(lines, "os^Dvx+" * len(lines), strict=False):
            axes.plot(line.tokens, line.lengths, marker=marker, markersize=4, linewidth=1.2, label=line.name)
        axes.set(
            xscale="log", xlabel="answered tokens trained on (each pass counts)", ylabel="held-out acceptance length"
        )
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        save_figure(path, suffix, figure, dpi=200)
        plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command of this module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_curve", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN.training[,NEXT.training]")
    parser.add_argument("--out", type=Path, help="a picture: .png, .pdf or .svg")
    options = parser.parse_args(arguments)
    try:
        if options.out is not None:
            check_picture(options.out)
            outputs.check(options.out)
        lines = [read_line(argument) for argument in options.runs]
        if options.out is not None:
            draw(options.out, lines)
    except FrspecError as error:
        sys.stderr.write(f"error: {as_flags(error.message)}\n")
        return error.exit_code
    for line in lines:
        for tokens, length in zip(line.tokens, line.lengths, strict=True):
            sys.stdout.write(f"{line.name}\t{tokens}\t{length:.3f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
