"""The card (README.md) that a trained head carries: from what, how, how good, and under which terms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from frspec_cli.replay.cycles import Acceptance

if TYPE_CHECKING:
    from frspec_cli.training.run import Session
    from frspec_cli.training.trainer import StepRecord

_TERMS = {
    "smollm2": (
        "Distilled from SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) and started from the weights of its last layer, "
        "which were changed by training. This head is under the Apache-2.0 license too."
    ),
    "gemma": (
        "Distilled from Gemma and started from weights of its last layer, which were changed by training: this head is "
        "provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms."
    ),
}
_OTHER_TERMS = (
    "Distilled from the target named above and started from weights of its last layer: the target's licence applies."
)


def plain_name(model: str) -> str:
    """How a card names a target: a folder or file by its last part (where it lay is nobody's business), else as given."""
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model


_LAYOUTS = {
    "fused": (
        "in frspec's own layout (`FrspecEagle`)",
        "Embedding and LM head are the target's, so that any vocabulary subset fits.",
    ),
    "eagle2": (
        "in EAGLE-2's layout",
        "The LM head is the target's, so that any vocabulary subset fits; the file holds a copy of its embedding.",
    ),
    "eagle3": ("in EAGLE-3's layout", "Its LM head is its own, over the draft tokens that `d2t` names."),
}


def write_card(session: Session, acceptance: Acceptance, record: StepRecord) -> str:
    """The card's text for the head as it is now. record: the last step's."""
    options, tree, head = session.options, session.settings.tree, session.trainer.head
    tokens = sum(answer.response_length for answer in session.train_answers)
    parameters = sum(weight.numel() for weight in session.trainer.weights.values())
    layout, owns = _LAYOUTS[head.config.layout]
    loss = {None: "exact over the vocabulary", 0: "over the subset only (biased)"}.get(
        options.sampled_rows, f"over the vocabulary, {options.sampled_rows} sampled rows a step"
    )
    rows = "the 8,192 tokens most frequent in the answers"
    if head.own_lm_head is not None:
        loss, rows = "over its own rows", f"its {head.own_lm_head.size:,} draft tokens"
    reads = [] if head.config.layout == "eagle3" else ["post-norm last hidden state"]
    reads += [f"`hidden_states` {list(head.taps)}"] if head.taps else []
    terms = next((text for key, text in _TERMS.items() if key in session.target.name.lower()), _OTHER_TERMS)
    return f"""# EAGLE draft head for {plain_name(session.target.name)}

A one-layer draft head {layout}: {parameters / 1e6:.1f} M parameters in bfloat16. {owns} It reads the target's
{" and its ".join(reads)}.

| | |
|---|---|
| command | `{session.command}` |
| trained on | {session.answers_name}: {len(session.train_answers):,} answers of the target, {tokens:,} answered tokens |
| training | step {session.trainer.step:,} of {session.trainer.total_steps:,}, {options.epochs} passes, \
{options.optimizer}, {options.steps} unrolled draft steps, loss {loss} |
| agreement | the draft's steps 1, 2, .. propose the target's likeliest token in \
{", ".join(f"{share:.0%}" for share in record.agreement)} of the last batch |
| acceptance length | **{acceptance.length:.3f}** over {acceptance.cycles:,} replayed cycles of \
{len(session.held_out)} held-out answers |
| measured with | depth {tree.depth}, beam {tree.beam}, nodes {tree.nodes}, {rows} |

{terms}
"""
