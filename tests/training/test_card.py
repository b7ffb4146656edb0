"""What a card says of terms and of the rows that validation proposed from is what is known."""

from __future__ import annotations

import pytest

from frspec_cli.decoding.options import TreeConfig
from frspec_cli.models.convert import converted_folder
from frspec_cli.models.embedded import EMBEDDED
from frspec_cli.training.card import CardFacts, terms_of, write_card
from frspec_cli.training.options import LearningRates, TrainOptions
from frspec_cli.training.trainer import StepRecord


@pytest.mark.parametrize(
    ("model", "words"),
    [("smollm2-135m", "under the Apache-2.0 license"), ("gemma3-270m", "subject to the Gemma Terms")],
)
def test_models_that_frspec_converted_have_their_own_terms(model, words):
    embedded = EMBEDDED[model]
    terms = terms_of("any name", converted_folder(embedded.name, embedded.sha256))
    assert embedded.title in terms
    assert words in terms


def test_every_embedded_model_has_terms():
    for model in EMBEDDED.values():
        assert terms_of(model.name, converted_folder(model.name, model.sha256))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("license: other\nlicense_name: made-up-1.0", "`made-up-1.0`"),
        ("license: [mit, apache-2.0]", "`mit, apache-2.0`"),
        ("language: en", "See the target's own licence."),
        ("license: [", "See the target's own licence."),
    ],
)
def test_a_model_card_is_quoted(tmp_path, metadata, words):
    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\ntext\n")
    assert words in terms_of("mine", tmp_path)


def test_the_card_names_the_rows_that_validation_used():
    record = StepRecord(step=7, epoch=0, loss=(1.0,), agreement=(0.5,), learning_rate=0.1, tokens=9)
    facts = CardFacts(
        target="mine", terms="See the target's own licence.", layout="fused", taps=(1, 2), parameters=10, own_rows=None,
        validation_rows=1234, command="frspec train-draft", answers_name="a.jsonl", answers=3, tokens=30,
        options=TrainOptions(),
        rates=LearningRates(4e-3, 1e-3), total_steps=8, record=record, acceptance_length=1.5, cycles=20, held_out=1,
        tree=TreeConfig(),
    )  # fmt: skip
    card = write_card(facts)
    assert "nodes 16, the 1,234 tokens most frequent in the answers |" in card
    assert "8 passes, muon at 0.004 and AdamW at 0.001 falling to 1%, 4 unrolled draft steps, loss over" in card
    assert "1024 sampled rows a step |" in card
