"""On the real SmolLM2-135M with the head that ships: a replay accepts what the engine accepts, cycle by cycle."""

from __future__ import annotations

import numpy as np
import pytest

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import target_states
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.pipeline import load_pipeline
from frspec_cli.models.shipped import DEFAULT_MODEL
from frspec_cli.models.target import load_target
from frspec_cli.replay.cycles import replay

pytestmark = [pytest.mark.real, pytest.mark.slow]
NEW, SHAPE = 48, TreeConfig(depth=5, beam=4, nodes=16)
PROMPTS = [
    "Why does bread rise?",
    "Write a limerick about a clock that runs backwards.",
    "List five things to pack for a week in the mountains.",
    "Explain to a child what a shadow is.",
    "What is 17 times 6? Show the steps.",
    "Write a Python function that reverses a string.",
    "Summarise in one sentence: the ferry was late, so we walked along the harbour and missed the concert.",
    "Give me a recipe with lentils and carrots.",
    "Translate into French: where is the railway station?",
    "Who wrote letters before there was post?",
    "Describe the smell of rain.",
    "Compare a violin with a trumpet.",
    "Write an SQL query that counts the orders of each customer.",
    "How do I stop a tap from dripping?",
    "Name three rivers in Europe and one town on each.",
    "Write the first paragraph of a story about a lighthouse.",
    "What are the advantages of walking to work?",
    "Rewrite politely: send me the file now.",
    "How far is the moon, and how is that measured?",
    "Give three synonyms for 'quick' and use each in a sentence.",
    "Is it safe to eat snow?",
    "Write a short note to a neighbour about a lost cat.",
    "What does the word 'recursion' mean?",
    "Plan a birthday party for eight people indoors.",
]


@pytest.mark.timeout(900)
def test_cycles_of_24_prompts() -> None:
    """Float32: states from one pass and from cycles differ in the last digits, so a draft's near tie may fall either way,
    and one such cycle shifts all later ones of its prompt. None did when this was written; two prompts are a mistake."""
    pipeline = load_pipeline(load_target(DEFAULT_MODEL, device="cpu", dtype="float32"), k=4096)
    engine = pipeline.engine("frspec", tree=SHAPE)
    drafter = engine.drafter
    texts, expected = [], []
    for prompt in PROMPTS:
        ids = pipeline.target.prompt_ids(prompt)
        drafted = engine.complete(ids, max_new_tokens=NEW + SHAPE.depth + 1, ignore_eos=True)
        texts.append(Answer(np.asarray([*ids, *drafted.token_ids]), len(ids), finished=False, greedy=True))
        begins = np.cumsum([1, *(count + 1 for count in drafted.accepted)])  # tokens there when a cycle begins
        expected.append([count for begin, count in zip(begins, drafted.accepted, strict=False) if begin < NEW])
    states = dict(target_states(pipeline.target.model, texts, layers=drafter.taps))
    replayed = replay(
        drafter.head,
        drafter.lm_head,
        [(text, states[i]) for i, text in enumerate(texts)],
        tree=drafter.tree,
        new_tokens=NEW,
    )
    different = [i for i, each in enumerate(replayed) if each.accepted != expected[i]]
    assert len(different) <= 1, different
    assert sum(map(sum, expected)) > sum(map(len, expected)) / 2
