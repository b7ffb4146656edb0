"""The card (README.md) that a trained head carries: from what, how, how good, and under which terms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from frspec_cli.training.validate import Acceptance

if TYPE_CHECKING:
    from frspec_cli.training.session import Session

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


def write_card(session: Session, acceptance: Acceptance) -> str:
    """The card's text for the head as it is now."""
    options, tree, head = session.options, session.settings.tree, session.trainer.head
    tokens = sum(answer.response_length for answer in session.train_answers)
    parameters = sum(parameter.numel() for parameter in head.parameters())
    loss = {None: "exact over the vocabulary", 0: "over the subset only (biased)"}.get(
        options.sampled_rows, f"over the vocabulary, {options.sampled_rows} sampled rows a step"
    )
    terms = next((text for key, text in _TERMS.items() if key in session.target.name.lower()), _OTHER_TERMS)
    return f"""# EAGLE draft head for {plain_name(session.target.name)}

A one-layer draft head in frspec's own layout (`FrspecEagle`): {parameters / 1e6:.1f} M parameters in bfloat16. Embedding
and LM head are the target's, so that any vocabulary subset fits. It reads the target's post-norm last hidden state and
its `hidden_states` {list(head.taps)}.

| | |
|---|---|
| command | `{session.command}` |
| trained on | {session.answers_name}: {len(session.train_answers):,} answers of the target, {tokens:,} answered tokens |
| training | step {session.trainer.step:,} of {session.trainer.total_steps:,}, {options.epochs} passes, \
{options.steps} unrolled draft steps, loss {loss} |
| acceptance length | **{acceptance.length:.3f}** over {acceptance.cycles:,} replayed cycles of \
{len(session.held_out)} held-out answers |
| measured with | depth {tree.depth}, beam {tree.beam}, nodes {tree.nodes}, the 8,192 tokens most frequent in the answers |

{terms}
"""
