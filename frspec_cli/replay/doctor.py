"""Why does a draft head accept so little? Its answers are replayed under every reading that could be wrong.

First the readings: the one that accepts most is taken where its gain is sure, and then all are tried again from there, for
two things may be wrong at once. Then what limits the head as it should be read: the subset, the beam, the tree, or itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import States, target_states
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.errors import option
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.identity import has_weights
from frspec_cli.models.lm_head import LmHead
from frspec_cli.models.target import Target
from frspec_cli.progress import Callbacks
from frspec_cli.replay.cycles import replay
from frspec_cli.replay.groups import GROUPS
from frspec_cli.replay.options import DoctorOptions
from frspec_cli.replay.readings import Reading, as_filed, nearest_rows, other_readings
from frspec_cli.replay.report import ReplayedAnswer, describe, figures, kept
from frspec_cli.subsets.subset import VocabularySubset

SURE = 1.03
"""A reading is taken if it accepts at least this many times as much, and its interval lies above 1."""
HOPELESS = 1.25
"""The acceptance length below which a head drafts hardly anything under any reading."""
WIDE = TreeConfig(depth=8, beam=8, nodes=64)


@dataclass(frozen=True, eq=False)
class Patient:
    """What is looked into: a head, the target's LM head, the subset if there is one, and answers of the target.

    recorded: what the head's config.json says of its target.
    """

    target: Target
    head: EagleHead
    lm_head: LmHead
    subset: VocabularySubset | None
    answers: Sequence[Answer]
    recorded: dict[str, Any]


def diagnose(patient: Patient, options: DoctorOptions, callbacks: Callbacks | None = None) -> dict[str, Any]:
    """What was found, as JSON values.

    readings: of each tried, its cause, words, acceptance length, and what it accepts against the file's own (`times`).
    verdict: `own` (the files are read rightly), `reading` (another accepts more) or `target` (none accepts anything).
    changes: what to read otherwise, best first. limits, ceilings: of the best reading. next: what to try.
    callbacks: `begin` gets the number of readings of the first round, `finished` each.
    """
    callbacks = callbacks or Callbacks()
    ward = _Ward(patient, options, callbacks)
    filed = as_filed(patient.head, patient.lm_head)
    first = ward.replayed(filed)
    best, best_replayed, changes, tried = filed, first, [], [ward.row(filed, first, first)]
    for round_number in range(options.rounds):
        rows = []
        others = ward.others(best)
        if not round_number:
            callbacks.begin(len(others))
        for reading in others:
            replayed = ward.replayed(reading)
            rows.append((ward.row(reading, replayed, best_replayed), reading, replayed))
            if not round_number:
                callbacks.finished(1)
        if not round_number:
            tried += [row for row, _, _ in rows]
        better = [each for each in rows if each[0]["times"]["low"] > 1 and each[0]["times"]["value"] >= SURE]
        if not better:
            break
        row, best, best_replayed = max(better, key=lambda each: each[0]["acceptance_length"])
        changes.append(row)
    found = figures(best_replayed, seed=options.seed)
    length = found["acceptance_length"] or 1.0
    hopeless = length < HOPELESS and found["interval"] is not None
    result: dict[str, Any] = {
        "answers": describe(patient.answers),
        "readings": sorted(tried, key=lambda row: -row["acceptance_length"]),
        "verdict": "target" if hopeless else "reading" if changes else "own",
        "changes": changes,
        "times": kept(best_replayed, first, seed=options.seed),
        "acceptance_length": length,
        "interval": found["interval"],
        "limits": found["miss_shares"],
        "checks": ward.checks(best),
        "groups": _groups(best_replayed, seed=options.seed),
        "ceilings": {} if hopeless else ward.ceilings(best, best_replayed),
    }
    return result | {"next": advice(result)}


class _Ward:
    """Replays one patient's answers again and again; the target's states are read once."""

    def __init__(self, patient: Patient, options: DoctorOptions, callbacks: Callbacks) -> None:
        self.patient, self.options, self.callbacks = patient, options, callbacks
        taps, layers = patient.head.config.taps, patient.target.config.num_hidden_layers
        wanted = {tap + step for tap in taps for step in range(-options.rounds, options.rounds + 1)}
        self.layers = sorted(tap for tap in wanted if 0 <= tap < layers)
        self.states = dict(target_states(patient.target.model, patient.answers, layers=self.layers))
        self.longest = max(len(answer.ids) for answer in patient.answers)

    def others(self, now: Reading) -> list[Reading]:
        config = self.patient.target.config
        rope = getattr(config, "rope_parameters", None) or {}
        found = other_readings(now, target_rope=rope, layers=config.num_hidden_layers, longest=self.longest)
        return [each for each in found if set(each.head.taps) <= set(self.layers)]

    def replayed(
        self, reading: Reading, lm_head: LmHead | None = None, *, tree: TreeConfig | None = None
    ) -> list[ReplayedAnswer]:
        """Every answer's cycles. lm_head: rows in place of all of the reading's."""
        places = [self.layers.index(tap) for tap in reading.head.taps]
        texts = [
            (answer, States(self.states[i].last, tuple(self.states[i].taps[place] for place in places)))
            for i, answer in enumerate(self.patient.answers)
        ]
        tree = tree or self.options.tree
        ahead = max(WIDE.depth, self.options.tree.depth) if self.options.ceilings else 0
        cycles = replay(reading.head, lm_head or reading.lm_head, texts, tree=tree, look_ahead=ahead)
        return [ReplayedAnswer(reading.what, a, c) for a, c in zip(self.patient.answers, cycles, strict=True)]

    def row(
        self, reading: Reading, replayed: Sequence[ReplayedAnswer], base: Sequence[ReplayedAnswer]
    ) -> dict[str, Any]:
        found = figures(replayed, seed=self.options.seed)
        times = kept(replayed, base, seed=self.options.seed)
        length = found["acceptance_length"] or 1.0
        nothing = {"value": 1.0, "low": 1.0, "high": 1.0}
        return {"cause": reading.cause, "what": reading.what, "acceptance_length": length, "times": times or nothing}

    def checks(self, reading: Reading) -> dict[str, Any]:
        """What the files themselves show, without a replay: None where they show nothing."""
        patient = self.patient
        recorded = patient.recorded.get("target_weights")
        own = patient.head.own_lm_head
        embedding = patient.head.embedding_weight
        same = None
        if embedding.shape == patient.target.embedding.shape:
            ours, theirs = embedding.float(), patient.target.embedding.float().to(embedding.device)
            same = float(torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).mean())
        return {
            "target_weights": None if not recorded else has_weights(patient.target, recorded),
            "embedding_cosine": same,
            "nearest_rows": None if own is None else nearest_rows(reading.lm_head, patient.target.lm_head.weight),
        }

    def ceilings(self, reading: Reading, replayed: Sequence[ReplayedAnswer]) -> dict[str, Any]:
        """What a wider tree, and a subset, make of the best reading, and what a subset of these very answers would."""
        options, found = self.options, {}
        if not options.ceilings:
            return {}
        found["wide_tree"] = kept(self.replayed(reading, tree=WIDE), replayed, seed=options.seed)
        if self.patient.subset is not None:
            ids = torch.from_numpy(self.patient.subset.token_ids.astype(np.int64))
            subset = self.replayed(reading, reading.lm_head.restrict(ids))
            own = self.replayed(reading, reading.lm_head.restrict(self._own_subset()))
            found["subset"] = kept(subset, replayed, seed=options.seed)
            found["own_subset"] = kept(own[1::2], replayed[1::2], seed=options.seed)
            found["subset_there"] = kept(subset[1::2], replayed[1::2], seed=options.seed)
            found["own_over_subset"] = kept(own[1::2], subset[1::2], seed=options.seed)
        return found

    def _own_subset(self) -> torch.Tensor:
        """As many tokens as the subset has: those of every other answer, most frequent first, then the subset's own.

        The answers between them are what it is tried on.
        """
        assert self.patient.subset is not None
        counts = np.zeros(self.patient.target.rows, dtype=np.int64)
        for answer in self.patient.answers[::2]:
            counts += np.bincount(answer.ids[answer.prompt_length :], minlength=len(counts))
        seen = np.flatnonzero(counts)
        order = seen[np.argsort(-counts[seen], kind="stable")]
        ids = dict.fromkeys([*order.tolist(), *self.patient.subset.token_ids.tolist()])
        return torch.tensor(list(ids)[: self.patient.subset.k])


def _groups(replayed: Sequence[ReplayedAnswer], *, seed: int) -> dict[str, dict[str, Any]]:
    """Acceptance lengths by task and by language."""
    found = {}
    for by in ("task", "language"):
        lengths = {name: figures(group, seed=seed)["interval"] for name, group in GROUPS[by](replayed).items()}
        found[by] = {name: interval for name, interval in lengths.items() if interval is not None}
    return found


def without_template(patient: Patient, raw: Sequence[Answer], options: DoctorOptions) -> dict[str, Any]:
    """The head, read as its files say, over answers to the same prompts without the chat template.

    acceptance: its interval there. better: whether it lies above that of the answers with the template, so that the head was
    trained without it.
    """
    filed = as_filed(patient.head, patient.lm_head)
    bare = _Ward(replace(patient, answers=raw), options, Callbacks()).replayed(filed)
    with_it = _Ward(patient, options, Callbacks()).replayed(filed)
    theirs, ours = (figures(each, seed=options.seed)["interval"] for each in (bare, with_it))
    return {"acceptance": theirs, "better": bool(theirs and ours and theirs["low"] > ours["high"])}


def advice(result: dict[str, Any]) -> list[str]:
    """What to do, most useful first."""
    checks, limits, ceilings = result["checks"], result["limits"], result["ceilings"]
    lines = [
        f"Read it so that {change['what']}: {_times(change['times'])} as much is accepted."
        for change in result["changes"]
    ]
    if (result.get("template") or {}).get("better"):
        lines.append(
            "It accepts more without the chat template: it was trained without; train it on templated answers."
        )
    if checks["target_weights"] is False:
        lines.append(
            "The head records that it was made for a target with other weights: use that target, or train it on."
        )
    if checks["embedding_cosine"] is not None and checks["embedding_cosine"] < 0.9:
        lines.append("The head brings an embedding that is not the target's: it was made for another target.")
    if checks["nearest_rows"] is not None and checks["nearest_rows"] < 0.5:
        lines.append(
            f"Only {checks['nearest_rows']:.0%} of its LM head's rows are nearest to the target's row of their own token: they "
            "belong to other tokens, or to another target."
        )
    if result["verdict"] == "target":
        lines.append(
            "No reading drafts: it is untrained, or of another target or tokenizer, or these prompts are nothing like what it "
            "was trained on. Compare tokenizers and weights first, then train it on this target's own answers."
        )
        return lines
    lines += _about_subset(ceilings)
    lines += _about_groups(result["groups"])
    if (wide := ceilings.get("wide_tree")) and wide["low"] > 1.05:
        lines.append(
            f"A tree of depth {WIDE.depth}, beam {WIDE.beam} and {WIDE.nodes} nodes accepts {_times(wide)} as much: tune it."
        )
    if limits["beam"] >= max(limits.values()):
        lines.append(
            f"{limits['beam']:.0%} of cycles end because the head ranks the right token too low: only a better head helps, "
            "trained longer or on more of the target's own answers."
        )
    return lines


def _about_subset(ceilings: dict[str, Any]) -> list[str]:
    if not ceilings.get("subset"):
        return []
    lines, over = [], ceilings["own_over_subset"]
    if over is not None and over["low"] > 1 and over["value"] >= SURE:
        lines.append(
            f"The subset does not fit these texts: one of their own tokens, as large, accepts {_times(over)} as much on other "
            f"answers. Count your own traffic: frspec count-freq ANSWERS {option('assistant_only')}, then frspec build-vocab."
        )
    if ceilings["subset"]["high"] < 0.97:
        lines.append(f"The subset keeps {ceilings['subset']['value']:.1%} of the acceptance: a larger one keeps more.")
    return lines


def _about_groups(groups: dict[str, dict[str, Any]]) -> list[str]:
    """A group whose interval lies below all of another's is off the head's domain."""
    lines = []
    for by, lengths in groups.items():
        if len(lengths) < 2:
            continue
        best = max(lengths, key=lambda name: lengths[name]["value"])
        worst = min(lengths, key=lambda name: lengths[name]["value"])
        if lengths[worst]["high"] < lengths[best]["low"]:
            lines.append(
                f"By {by}, {worst or '(none)'} has {lengths[worst]['value']:.2f} where {best or '(none)'} has "
                f"{lengths[best]['value']:.2f}: the head knows {worst or 'it'} less; train it on such prompts."
            )
    return lines


def _times(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} times ({found['low']:.2f} to {found['high']:.2f})"
