"""Which counts make the best subset? Web text, the target's own answers, or both mixed, at several sizes.

    python -m benchmarks.subset_study --answers A.jsonl.zst --web counts.parquet --out study.json [--model M] [--draft D]
        [--k 2048 4096 8192 16384] [--tokens 10000 50000 200000] [--limit 24] [--new-tokens 96] [--web-weight 0.1]

Every subset is built as `frspec build-vocab --pad` would build it: from the first N tokens of the answers that `train-draft`
trains on. It is measured on `--limit` of those that it holds out, spread evenly: what it covers of their tokens, and the
acceptance length of the head, replayed, with its difference from the web text's subset of that size (paired bootstrap
over answers). The last lines are Spearman's rank correlation between the two, over all subsets and within each size. A
killed run resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frspec_cli import outputs, storage
from frspec_cli.answers.records import Answer, fingerprint, read_answers, split, token_counts
from frspec_cli.counting.table import FOLDS, FrequencyTable
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.pipeline import Pipeline, load_pipeline
from frspec_cli.errors import FrspecError, as_flags
from frspec_cli.models.identity import target_identity
from frspec_cli.models.target import Target, load_target
from frspec_cli.replay.cycles import replay
from frspec_cli.resume import RunFolder, run_folder
from frspec_cli.statistics import difference, ratio
from frspec_cli.subsets.build import Builder
from frspec_cli.subsets.mix import NamedTable
from frspec_cli.subsets.recipe import Recipe
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer
from frspec_cli.training.features import FeatureStore


@dataclass(frozen=True)
class Settings:
    """What the study varies and measures on.

    ks: sizes of the subsets.
    tokens: numbers of answered tokens, in file order, to count.
    limit: held-out answers to measure on.
    new_tokens: no cycle begins once an answer has this many tokens.
    web_weight: the web text's share in the mixture.
    tree: the draft tree.
    """

    ks: tuple[int, ...] = (2048, 4096, 8192, 16384)
    tokens: tuple[int, ...] = (10_000, 50_000, 200_000)
    limit: int = 24
    new_tokens: int = 96
    web_weight: float = 0.1
    tree: TreeConfig = field(default_factory=TreeConfig)


class Study:
    """One study; `run` does what is missing and returns all rows."""

    def __init__(self, pipeline: Pipeline, answers: Path, web: Path, settings: Settings) -> None:
        self.settings, self.draft = settings, pipeline.draft
        self.target: Target = pipeline.target
        assert pipeline.head is not None
        self.head = pipeline.head
        self.tokenizer: LoadedTokenizer = load_tokenizer(self.target.name)
        self.web = replace(NamedTable.read(web), name="web")
        train, held_out = split(read_answers(answers, vocab_size=self.target.rows))
        self.train = [answer for answer in train if answer.response_length > 0]
        indices = np.linspace(0, len(held_out) - 1, min(settings.limit, len(held_out))).round().astype(int)
        self.held_out = [held_out[i] for i in indices]
        self.held_out_counts = token_counts(self.held_out, vocab_size=self.target.rows)

    def inputs(self) -> dict[str, Any]:
        """What every figure depends on."""
        settings = self.settings
        return {
            "--model": self.target.name,
            "model's weights": target_identity(self.target),
            "--dtype": str(self.target.dtype).removeprefix("torch."),
            "--draft": self.draft,
            "--web": self.web.sha256,
            "answers": fingerprint(self.train),
            "held-out answers": fingerprint(self.held_out),
            "--new-tokens": settings.new_tokens,
            "--web-weight": settings.web_weight,
        }

    def run(self, folder: RunFolder) -> list[dict[str, Any]]:
        """A row for every counts and k: coverage and acceptance length on the held-out answers."""
        store = FeatureStore(
            self.target.model,
            self.held_out,
            taps=self.head.taps,
            folder=folder.folder,
            identity=target_identity(self.target),
        )
        rows = []
        for name, tables, weights in self._counts():
            builder = None
            for k in self.settings.ks:
                path = folder.path(f"row-{name.replace('@', '-')}-{k}.json")
                if not path.is_file():
                    builder = builder or Builder(tables, self.tokenizer, Recipe(weights=weights, pad=True))
                    storage.write_json(path, self._measure(name, builder, k, store))
                rows.append(storage.read_json(path))
                rows[-1]["over_web"] = _over(rows[-1], next(row for row in rows if row["k"] == k))
                _say(_line(rows[-1]))
        return rows

    def _counts(self) -> Iterator[tuple[str, list[NamedTable], dict[str, float]]]:
        """(name, tables, their weights in a mixture)."""
        yield "web", [self.web], {}
        for tokens in self.settings.tokens:
            own = self._own(tokens)
            yield f"own@{tokens}", [own], {}
            share = self.settings.web_weight
            yield f"mixture@{tokens}", [own, self.web], {"own": 1 - share, "web": share}

    def _own(self, tokens: int) -> NamedTable:
        counts = np.zeros((FOLDS, self.tokenizer.highest_id + 1), dtype=np.int64)
        counts[0] = token_counts(_first(self.train, tokens), vocab_size=self.target.rows)[: counts.shape[1]]
        return NamedTable("own", FrequencyTable({"own": counts}, {"tokenizer": self.tokenizer.record()}), "")

    def _measure(self, name: str, builder: Builder, k: int, store: FeatureStore) -> dict[str, Any]:
        subset = builder.choose(k)
        ids = subset.token_ids.astype(np.int64)
        full = self.head.own_lm_head or self.target.lm_head
        texts = [(answer, store[i]) for i, answer in enumerate(self.held_out)]
        rows = full.restrict(torch.from_numpy(ids))
        replayed = replay(self.head, rows, texts, tree=self.settings.tree, new_tokens=self.settings.new_tokens)
        cycles = [len(each.accepted) for each in replayed]
        emitted = [len(each.accepted) + sum(each.accepted) for each in replayed]
        return {
            "counts": name,
            "k": k,
            "padded": subset.padded,
            "coverage": float(self.held_out_counts[ids].sum() / self.held_out_counts.sum()),
            "cycles": sum(cycles),
            "outside": sum(each.misses.count("outside") for each in replayed) / sum(cycles),
            "acceptance_length": ratio(emitted, cycles, seed=0),
            "by_answer": {"cycles": cycles, "emitted": emitted},
        }


def _first(answers: Sequence[Answer], tokens: int) -> list[Answer]:
    """The first answers that hold `tokens` answered tokens together (all, if there are fewer)."""
    ends = np.cumsum([answer.response_length for answer in answers])
    return list(answers[: int(np.searchsorted(ends, tokens)) + 1])


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; nan if one side is constant."""
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (a, b)]
    centred = [values - values.mean() for values in ranks]
    norm = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / norm) if norm else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    return (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) - 1) / 2


def correlations(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Between coverage and acceptance length: `all`, and within each k."""
    groups = {"all": list(rows)} | {str(k): [row for row in rows if row["k"] == k] for k in {row["k"] for row in rows}}
    return {
        name: spearman([row["coverage"] for row in group], [row["acceptance_length"]["value"] for row in group])
        for name, group in sorted(groups.items(), key=lambda item: (item[0] != "all", len(item[0]), item[0]))
    }


def _over(row: dict[str, Any], base: dict[str, Any]) -> dict[str, float]:
    """By how much the acceptance length is above the base's, over the same answers."""
    own, other = row["by_answer"], base["by_answer"]
    return difference(own["emitted"], own["cycles"], other["emitted"], other["cycles"], seed=0)


def _line(row: dict[str, Any]) -> str:
    length, over = row["acceptance_length"], row["over_web"]
    return (
        f"{row['counts']:16} k {row['k']:6,}  coverage {row['coverage']:.3%}  acceptance {length['value']:.3f} "
        f"({length['low']:.3f} to {length['high']:.3f})  over web {over['value']:+.3f} ({over['low']:+.3f} to "
        f"{over['high']:+.3f})  outside {row['outside']:.1%}  padded {row['padded']:,}"
    )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> None:
    """The command line in the module's docstring."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.subset_study", description=__doc__.split("\n")[0])
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--web", type=Path, required=True, help="a frequency table")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--draft")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--k", type=int, nargs="+", default=list(defaults.ks))
    parser.add_argument("--tokens", type=int, nargs="+", default=list(defaults.tokens))
    parser.add_argument("--limit", type=int, default=defaults.limit)
    parser.add_argument("--new-tokens", type=int, default=defaults.new_tokens)
    parser.add_argument("--web-weight", type=float, default=defaults.web_weight)
    arguments = parser.parse_args()
    settings = Settings(
        ks=tuple(sorted(arguments.k)),
        tokens=tuple(sorted(arguments.tokens)),
        limit=arguments.limit,
        new_tokens=arguments.new_tokens,
        web_weight=arguments.web_weight,
    )
    try:
        inputs = [arguments.answers, arguments.web, arguments.model, arguments.draft]
        outputs.check(arguments.out, inputs=inputs, replaces=outputs.JSON, what="a result")
        pipeline = load_pipeline(load_target(arguments.model, dtype=arguments.dtype), draft=arguments.draft, warn=_say)
        if pipeline.head is None:
            raise FrspecError(f"no draft head ships for {arguments.model}.", hint="Name one with --draft.")
        study = Study(pipeline, arguments.answers, arguments.web, settings)
        with RunFolder.opened(run_folder(arguments.out)) as folder:
            folder.resume(study.inputs())
            rows = study.run(folder)
            result = {"inputs": study.inputs(), "rows": rows, "spearman": correlations(rows)}
            storage.write_json(arguments.out, result)
    except FrspecError as error:
        sys.exit(f"error: {as_flags(error.message)}")
    sys.stdout.write(json.dumps({"out": str(arguments.out), "spearman": result["spearman"]}) + "\n")


if __name__ == "__main__":
    main()
