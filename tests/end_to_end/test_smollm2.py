"""The main job on the real SmolLM2-135M with what ships in data/: identical ids, accepted drafts, clear output."""

from __future__ import annotations

import json

import pytest

from frspec_cli.bench.demo import MAX_NEW_TOKENS, PROMPTS
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.pipeline import Pipeline, load_pipeline
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.models.shipped import DEFAULT_K, DEFAULT_MODEL, shipped_for
from frspec_cli.models.target import load_target
from frspec_cli.tokens.tokenizer import load_tokenizer
from frspec_cli.verification.identity import NEAR_TIE, differences, first_difference, score

pytestmark = pytest.mark.real
SHAPE = TreeConfig(depth=5, beam=4, nodes=16)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(load_target(DEFAULT_MODEL, device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def plain(pipeline: Pipeline) -> dict[str, list[int]]:
    engine = Engine(pipeline.target)
    prompts = {text: pipeline.target.prompt_ids(text) for text in PROMPTS[:2]}
    return {text: engine.complete(ids, max_new_tokens=MAX_NEW_TOKENS).token_ids for text, ids in prompts.items()}


def test_the_tokenizer_from_the_gguf_is_the_published_one(pipeline: Pipeline) -> None:
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    assert (tokenizer.size, tokenizer.highest_id, tokenizer.model_rows) == (49152, 49151, 49152)
    assert tokenizer.encode_batch(["Hello world"])[0].tolist() == [19556, 905]
    assert tokenizer.fingerprint.startswith("46c054229484")
    assert pipeline.target.eos_ids == (2,)


def test_what_ships_is_whole_and_fits(pipeline: Pipeline) -> None:
    shipped = shipped_for(DEFAULT_MODEL)
    assert shipped.counts is not None
    assert shipped.head is not None
    assert (shipped.head / "README.md").is_file()
    assert pipeline.subset is not None
    assert pipeline.subset.k == DEFAULT_K
    assert {1, 2} <= set(pipeline.subset.token_ids.tolist())
    assert pipeline.default_method() == "frspec"


@pytest.mark.parametrize(("method", "prompts", "least"), [("eagle", PROMPTS[:2], 1.6), ("frspec", PROMPTS, 1.8)])
def test_float32_ids_are_the_targets_and_drafts_are_accepted(
    pipeline: Pipeline, plain: dict[str, list[int]], method, prompts, least
):
    """By re-scoring, and two texts step by step. Near ties (top-2 margin below 1e-3) may fall either way."""
    engine = pipeline.engine(method, tree=SHAPE)
    accepted = cycles = 0
    for text in prompts:
        prompt = pipeline.target.prompt_ids(text)
        generation = engine.complete(prompt, max_new_tokens=MAX_NEW_TOKENS)
        scored = score(pipeline.target, prompt, generation.token_ids)
        assert all(each.margin < NEAR_TIE for each in differences(scored, generation.token_ids))
        position = first_difference(plain.get(text, generation.token_ids), generation.token_ids)
        assert position is None or scored.margin[position] < NEAR_TIE
        accepted += sum(generation.accepted)
        cycles += generation.cycles
    assert accepted / cycles + 1 > least  # the shipped head drafts well enough to be of use


def test_a_seed_gives_the_same_text_with_and_without_drafts(pipeline: Pipeline) -> None:
    sampling = Sampling(temperature=0.7, top_p=0.95, seed=1)
    prompt = pipeline.target.prompt_ids(PROMPTS[3])
    expected = Engine(pipeline.target).complete(prompt, max_new_tokens=24, sampling=sampling)
    drafted = pipeline.engine("frspec", tree=SHAPE).complete(prompt, max_new_tokens=24, sampling=sampling)
    assert drafted.token_ids == expected.token_ids
    assert sum(drafted.accepted) > 0


def test_generate_needs_no_option(cli) -> None:
    code, out, err = cli("generate", "Name three colours.", "-n", 24, "--json", "--device", "cpu")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert (record["method"], record["k"], record["dtype"]) == ("frspec", DEFAULT_K, "bfloat16")
    assert record["model"] == "smollm2-135m"
    assert record["text"]
    assert record["acceptance_length"] > 1


def test_a_prefix_of_the_subset_and_a_k_that_is_too_large(cli) -> None:
    code, out, _ = cli("generate", "Hi", "-n", 6, "--k", 1024, "--json", "-q")
    assert code == 0
    assert json.loads(out)["k"] == 1024
    code, out, err = cli("generate", "Hi", "-n", 6, "--k", 60000)
    assert (code, out) == (1, "")
    assert "--k 60000 is more than the 32768 tokens of this subset" in " ".join(err.split())


def test_a_subset_of_another_tokenizer_is_refused(cli, tiny_folder, tmp_path) -> None:
    import numpy as np

    from frspec_cli.counting.table import FOLDS, FrequencyTable
    from frspec_cli.subsets.subset import VocabularySubset

    tokenizer = load_tokenizer(str(tiny_folder))
    counts = np.zeros((FOLDS, tokenizer.highest_id + 1), dtype=np.int64)
    counts[0] = np.arange(tokenizer.highest_id + 1) + 1
    described = {
        "reference": "tiny",
        "fingerprint": tokenizer.fingerprint,
        "size": tokenizer.size,
        "highest_id": tokenizer.highest_id,
        "model_rows": 320,
        "forced": {},
    }
    FrequencyTable({"text": counts}, {"tokenizer": described}).write(tmp_path / "counts.parquet")
    built, _, err = cli(
        "build-vocab",
        tmp_path / "counts.parquet",
        "--tokenizer",
        tiny_folder,
        "--k",
        100,
        "--out",
        tmp_path / "s.parquet",
    )
    assert built == 0, err
    assert VocabularySubset.read(tmp_path / "s.parquet").k == 100
    code, out, err = cli("generate", "Hi", "--vocab", tmp_path / "s.parquet")
    assert (code, out) == (1, "")
    assert "first" in err
    assert tokenizer.fingerprint[:12] in err
