"""The card (README.md) that a trained head carries: from what, how, how good, and under which terms."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.heads.config import Layout
from frspec_cli.models.convert import converted_folder
from frspec_cli.models.embedded import EMBEDDED
from frspec_cli.training.options import LearningRates, TrainOptions
from frspec_cli.training.trainer import StepRecord

_SHARED = "Embedding and LM head are the target's, so that any vocabulary subset fits."
_LAYOUTS: dict[Layout, tuple[str, str]] = {
    "fused": ("in frspec's own layout (`FrspecEagle`)", _SHARED),
    "mtp": ("that is a multi-token-prediction module as DeepSeek-V3's (`FrspecMtp`)", _SHARED),
    "eagle2": (
        "in EAGLE-2's layout",
        "The LM head is the target's, so that any vocabulary subset fits; the file holds a copy of its embedding.",
    ),
    "eagle3": ("in EAGLE-3's layout", "Its LM head is its own, over the draft tokens that `d2t` names."),
}
_TERMS = {
    "Apache-2.0": "{title} is under the Apache-2.0 license, and so is this head.",
    "Gemma Terms of Use": "This head is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms.",
}

_LONGEST_CARD = 1 << 16


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    target: the target's name.
    terms: see `terms_of`.
    taps: `hidden_states` indices.
    parameters: number of trained weights.
    own_rows: rows of the head's own LM head; None if it uses the target's.
    validation_rows: otherwise the number of most frequent tokens that validation proposed from.
    command: the command that trained the head.
    answers_name, answers, tokens: the file, and the answers and answered tokens that were trained on.
    total_steps: of the whole run; `record` is the last step taken.
    acceptance_length, cycles, held_out: of the validation, over N held-out answers.
    """

    target: str
    terms: str
    layout: Layout
    taps: Sequence[int]
    parameters: int
    own_rows: int | None
    validation_rows: int
    command: str
    answers_name: str
    answers: int
    tokens: int
    options: TrainOptions
    rates: LearningRates
    total_steps: int
    record: StepRecord
    acceptance_length: float
    cycles: int
    held_out: int
    tree: TreeConfig


def write_card(facts: CardFacts) -> str:
    """The card's text."""
    options, tree, record = facts.options, facts.tree, facts.record
    layout, lm_head = _LAYOUTS[facts.layout]
    loss = {None: "exact over the vocabulary", 0: "over the subset only (biased)"}.get(
        options.sampled_rows, f"over the vocabulary, {options.sampled_rows} sampled rows a step"
    )
    loss += " drawn by frequency^0.75" * (options.negatives == "frequency")
    rows = f"the {facts.validation_rows:,} tokens most frequent in the answers"
    if facts.own_rows is not None:
        loss, rows = "over its own rows", f"its {facts.own_rows:,} draft tokens"
    reads = [] if facts.layout == "eagle3" else ["post-norm last hidden state"]
    reads += [f"`hidden_states` {list(facts.taps)}"] if facts.taps else []
    kind = "MTP module" if facts.layout == "mtp" else "EAGLE draft head"
    return f"""# {kind} for {facts.target}

A one-layer draft head {layout}: {facts.parameters / 1e6:.1f} M parameters in bfloat16. {lm_head} It reads the target's
{" and its ".join(reads)}.

| | |
|---|---|
| command | `{facts.command}` |
| trained on | {facts.answers_name}: {facts.answers:,} answers of the target, {facts.tokens:,} answered tokens |
| training | step {record.step:,} of {facts.total_steps:,}, {options.epochs} passes, \
{_optimizer(facts)}, {options.steps} unrolled draft steps, loss {loss}{_switches(options)} |
| agreement | the draft's steps 1, 2, .. propose the target's likeliest token in \
{", ".join(f"{share:.0%}" for share in record.agreement)} of the last batch |
| acceptance length | **{facts.acceptance_length:.3f}** over {facts.cycles:,} replayed cycles of \
{facts.held_out} held-out answers |
| measured with | depth {tree.depth}, beam {tree.beam}, nodes {tree.nodes}, {rows} |

{facts.terms}
"""


def _optimizer(facts: CardFacts) -> str:
    options, rates = facts.options, facts.rates
    text = f"{options.optimizer} at {rates.matrices:g}"
    if rates.rest != rates.matrices:
        text += f" and AdamW at {rates.rest:g}"
    return text + f" falling to {options.final_rate:.0%}"


def _switches(options: TrainOptions) -> str:
    """What else was chosen: the objective, the average."""
    text = "" if options.objective == "kl" else f", objective {options.objective} (arXiv 2602.23881)"
    return text + (f", moving average of the weights at {options.ema:g}" if options.ema else "")


def answers_on_card(head: Path) -> set[str]:
    """The names of files of answers that the card in a head's folder names as trained on; none if there is no card."""
    path = head / "README.md"
    if not path.is_file():
        return set()
    with open(path, errors="replace") as file:
        lines = file.read(_LONGEST_CARD).splitlines()
    rows = [line for line in lines if line.startswith(("| command", "| trained on"))]
    return {name for row in rows for name in re.findall(r"[^\s`|/]+\.jsonl(?:\.zst|\.gz)?\b", row)}


def terms_of(name: str, folder: Path) -> str:
    """The terms of a head trained for the target `name` in `folder`: only what is known, never a guess from the name.

    A model that frspec converted itself is known by its sha256; for others the card in its folder may name a licence.
    """
    for model in EMBEDDED.values():
        if folder == converted_folder(model.name, model.sha256):
            return _origin(model.title) + " " + _TERMS[model.licence].format(title=model.title)
    licence = _licence_on_card(folder)
    if licence:
        return f"{_origin(name)} The target's model card names the licence `{licence}`: its terms apply."
    return f"{_origin(name)} See the target's own licence."


def quoted_command(arguments: Sequence[str], *, processes: int = 1) -> str:
    """The command as the card quotes it: files and folders by their names, for their folders mean nothing elsewhere.

    A hub id (owner/name) stays, unless there is a folder of its owner's name here.
    """
    shown = []
    for argument in arguments:
        name, equals, value = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
        path = Path(value).expanduser()
        local = path.is_absolute() or value.startswith(".") or path.exists() or path.parent.is_dir()
        shown.append(name + equals + (path.name if "/" in value and local else value))
    if shown[:1] != ["train-draft"]:
        shown.insert(0, "train-draft")
    program = "frspec" if processes == 1 else f"torchrun --nproc-per-node {processes} -m frspec_cli"
    return f"{program} {shlex.join(shown)}"


def _origin(target: str) -> str:
    return f"Distilled from {target} and started from the weights of its last layer, which were changed by training."


def _licence_on_card(folder: Path) -> str:
    """The licence in the metadata of the target's README.md; '' if there is none that can be read."""
    path = folder / "README.md"
    if not path.is_file():
        return ""
    import yaml
    from huggingface_hub import metadata_load

    try:
        metadata = metadata_load(path) or {}
    except (ValueError, yaml.YAMLError):
        return ""
    licence = metadata.get("license_name") or metadata.get("license") or ""
    return ", ".join(licence) if isinstance(licence, list) else str(licence)
