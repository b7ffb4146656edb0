"""Answers are plain decoding's, whatever shares a batch; a stopped run resumes to the same bytes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from frspec_cli.answers import collect as collecting
from frspec_cli.answers.batched_decode import TokenizedPrompt, decode_batch, uniforms
from frspec_cli.answers.collect import collect
from frspec_cli.answers.options import CollectOptions
from frspec_cli.answers.records import read_answers
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.errors import FrspecError, UsageError
from frspec_cli.models.target import load_target
from frspec_cli.progress import Callbacks
from frspec_cli.resume import RunFolder, run_folder
from tests.tiny import tiny_config, tiny_target

PROMPTS = [
    "the fox",
    "a lighthouse keeper counts the ships",
    "def count(tokens):",
    "Überall grünt es",
    "hen",
    "by night",
]
OPTIONS = CollectOptions(max_new_tokens=12, batch_size=2)


@pytest.fixture(scope="module")
def target(tiny_folder):
    return load_target(str(tiny_folder), device="cpu", dtype="float64")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [{"prompt": text, "source": "made up"} for text in PROMPTS[:4]]
    lines += [{"question_id": 81, "category": "qa", "turns": [PROMPTS[4], "and?"]}, {"id": "t", "text": PROMPTS[5]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def records(path):
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def plain(target, ids, count, draws=None, temperature=1.0):
    """One prompt alone, without a cache: greedy, or by inverting the whole law with the given draws."""
    ids, made = list(ids), []
    while len(made) < count:
        logits = target.model(input_ids=torch.tensor([ids])).logits[0, -1]
        if draws is None:
            token = int(logits.argmax())
        else:
            heights = (logits.float() / temperature).double().softmax(-1).cumsum(-1)
            token = int((heights <= draws[len(made)] * heights[-1]).sum())
        ids.append(token)
        made.append(token)
        if token in target.eos_ids:
            break
    return made


def test_records_are_plain_greedy_decoding_in_the_order_of_the_prompts(target, prompts, tmp_path):
    done = collect(target, prompts, tmp_path / "a.jsonl", OPTIONS)
    found = records(tmp_path / "a.jsonl")
    assert [record["id"] for record in found] == ["1", "2", "3", "4", "81", "t"]
    for record, text in zip(found, PROMPTS, strict=True):
        prompt_ids = target.prompt_ids(text, raw=record["id"] == "t")
        assert record["prompt_token_ids"] == prompt_ids
        assert record["response_token_ids"] == plain(target, prompt_ids, 12)
        assert (record["finish"] == "stop") == (record["response_token_ids"][-1] in target.eos_ids)
        user, assistant = record["conversations"]
        assert user == {"role": "user", "content": text}
        assert assistant["content"] == target.processor.decode(record["response_token_ids"], skip_special_tokens=True)
        named = ["id", "conversations", "prompt_token_ids", "response_token_ids", "finish"]
        assert list(record) == [*named, *(["source"] if record["id"] != "t" else []), "run"]
    assert len({record["run"] for record in found}) == 1
    assert done.answers == 6
    assert done.tokens == done.new_tokens == sum(len(record["response_token_ids"]) for record in found)
    assert not (tmp_path / "a.jsonl.ledger").exists()
    assert len(read_answers(tmp_path / "a.jsonl", vocab_size=320)) == 6


@pytest.mark.parametrize("kind", ["llama", "sliding"])
def test_a_completion_does_not_depend_on_what_shares_its_batch(kind):
    """Rows leave at different times (some stop early), prompts have unequal lengths; sliding windows are passed."""
    config = tiny_config()
    if kind == "sliding":
        from transformers import Gemma3TextConfig

        config = Gemma3TextConfig(
            **{name: getattr(config, name) for name in ("vocab_size", "hidden_size", "intermediate_size")},
            num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=8,
            layer_types=["sliding_attention", "full_attention"] * 2, initializer_range=0.3, eos_token_id=0,
        )  # fmt: skip
    target = tiny_target(config=config)
    target.model.generation_config.eos_token_id = list(range(0, 320, 12))  # many: rows stop at different times
    generator = torch.Generator().manual_seed(0)
    questions = [
        TokenizedPrompt(str(n), "", tuple(torch.randint(1, 320, (3 + 2 * n,), generator=generator).tolist()))
        for n in range(7)
    ]
    for sampling in (Sampling(), Sampling(temperature=1.3, seed=4)):
        together = decode_batch(target, questions, max_new_tokens=14, sampling=sampling)
        for question, reply in zip(questions, together, strict=True):
            draws = None if sampling.greedy else uniforms(4, question.id, 14)
            assert list(reply.ids) == plain(target, question.ids, 14, draws, 1.3)
            assert reply.stopped == (reply.ids[-1] in target.eos_ids)
        assert len({len(reply.ids) for reply in together}) > 2
        alone = decode_batch(target, questions[2:3], max_new_tokens=14, sampling=sampling)
        assert alone[0] == together[2]


def test_top_p_draws_only_from_the_likeliest_and_by_their_law(target):
    """2,000 first tokens at top-p 0.5 against the renormalised law: a chi-square beyond its 1e-6 quantile is a bug."""
    questions = [TokenizedPrompt(str(n), "", (5, 6, 7)) for n in range(2000)]
    replies = decode_batch(target, questions, max_new_tokens=1, sampling=Sampling(temperature=1.0, top_p=0.5, seed=1))
    counts = torch.bincount(torch.tensor([reply.ids[0] for reply in replies]), minlength=320).double()
    law = target.model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].double().softmax(-1)
    ordered, ids = law.sort(descending=True)
    kept = ids[: int((ordered.cumsum(0) < 0.5).sum()) + 1]
    assert set(counts.nonzero().flatten().tolist()) <= set(kept.tolist())
    expected = 2000 * law[kept] / law[kept].sum()
    chi_square, freedom = float(((counts[kept] - expected) ** 2 / expected).sum()), len(kept) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5 + 15


class Killed(BaseException):
    """As sudden as kill -9 can be inside a process: nothing catches it."""


def test_a_killed_run_resumes_to_the_same_bytes(target, prompts, tmp_path):
    sampled = replace(OPTIONS, sampling=Sampling(temperature=0.9, top_p=0.9, seed=3))
    collect(target, prompts, tmp_path / "undisturbed.jsonl", sampled)
    out = tmp_path / "killed.jsonl"

    def kill(answers):
        raise Killed

    for left in (6, 4):
        begun = []
        with pytest.raises(Killed):
            collect(target, prompts, out, sampled, callbacks=Callbacks(begin=begun.append, finished=kill))
        assert begun == [left]
        assert not out.exists()
    begun, said = [], []
    done = collect(target, prompts, out, sampled, callbacks=Callbacks(begin=begun.append, say=said.append))
    assert begun == [2]
    assert said == ["resuming: 4 of 6 answers are there"]
    assert done.answers == 6
    assert out.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()
    assert all(record["temperature"] == 0.9 for record in records(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.jsonl", "prompts.jsonl", "undisturbed.jsonl"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_new_tokens": 9}, "max_new_tokens was 12, now it is 9"),
        ({"batch_size": 3}, "batch_size was 2, now it is 3"),
        ({"sampling": Sampling(temperature=0.5)}, "temperature was 0.0, now it is 0.5"),
        ({"limit": 5}, "limit was not given, now it is 5"),
        ({"raw": True}, "raw was False, now it is True"),
    ],
)
def test_a_changed_option_is_refused_by_its_name(target, prompts, tmp_path, change, named):
    out = tmp_path / "a.jsonl"

    def kill(answers):
        raise Killed

    with pytest.raises(Killed):
        collect(target, prompts, out, OPTIONS, callbacks=Callbacks(finished=kill))
    with pytest.raises(FrspecError, match=named):
        collect(target, prompts, out, replace(OPTIONS, **change))
    collect(target, prompts, out, replace(OPTIONS, **change), restart=True)
    assert out.exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw[: len(raw) // 2], "is not valid JSON"),
        (lambda raw: raw.splitlines(keepends=True)[0], "its content is 1 lines; expected 2 lines, each an answer"),
        (lambda raw: raw + b"\n", "its content is 3 lines; expected 2 lines, each an answer"),
        (lambda raw: b"\xff\xfe" + raw, "is not valid JSON"),
        (lambda raw: b"", "its content is 0 lines; expected 2 lines, each an answer"),
    ],
)
def test_a_damaged_part_of_a_stopped_run_is_named(target, prompts, tmp_path, damage, said):
    def kill(answers):
        raise Killed

    out = tmp_path / "a.jsonl"
    with pytest.raises(Killed):
        collect(target, prompts, out, OPTIONS, callbacks=Callbacks(finished=kill))
    [part] = run_folder(out).glob("batch-*.jsonl")
    part.write_bytes(damage(part.read_bytes()))
    with pytest.raises(FrspecError, match=rf"{part}.*{said}") as caught:
        collect(target, prompts, out, OPTIONS)
    assert caught.value.hint.startswith("Remove it, and its answers are made again; ")
    part.unlink()
    assert collect(target, prompts, out, OPTIONS).answers == 6


def test_changed_prompts_are_refused(target, prompts, tmp_path):
    def kill(answers):
        raise Killed

    with pytest.raises(Killed):
        collect(target, prompts, tmp_path / "a.jsonl", OPTIONS, callbacks=Callbacks(finished=kill))
    prompts.write_text(prompts.read_text().replace("fox", "ox"))
    with pytest.raises(FrspecError, match="other inputs: prompts was"):
        collect(target, prompts, tmp_path / "a.jsonl", OPTIONS)


def test_a_changed_setting_of_the_model_is_shown_where_its_identity_differs(target, prompts, tmp_path, monkeypatch):
    def kill(answers):
        raise Killed

    with pytest.raises(Killed):
        collect(target, prompts, tmp_path / "a.jsonl", OPTIONS, callbacks=Callbacks(finished=kill))
    changed = collecting.target_identity(target)[:40] + "0" * 24
    before = collecting.target_identity(target)[40:52]
    monkeypatch.setattr(collecting, "target_identity", lambda target: changed)
    with pytest.raises(FrspecError, match=rf"model's weights was \.\.\.{before}, now it is \.\.\.0{{12}}\."):
        collect(target, prompts, tmp_path / "a.jsonl", OPTIONS)


def test_two_runs_into_one_file_do_not_meet(target, prompts, tmp_path):
    with (
        RunFolder.opened(run_folder(tmp_path / "a.jsonl")),
        pytest.raises(FrspecError, match="another process is writing to"),
    ):
        collect(target, prompts, tmp_path / "a.jsonl", OPTIONS)


def test_long_prompts_are_left_out_and_long_texts_cut(target, tmp_path):
    path = tmp_path / "prompts.jsonl"
    long = "the fox " * 400
    path.write_text("\n".join(json.dumps(line) for line in ({"prompt": long}, {"prompt": "hen"}, {"text": long})))
    said: list[str] = []
    done = collect(target, path, tmp_path / "a.jsonl.zst", OPTIONS, callbacks=Callbacks(say=said.append))
    assert (done.answers, done.left_out) == (2, 1)
    assert said == ["left out 1 prompts: with the answer they exceed 512 tokens."]
    answers = read_answers(tmp_path / "a.jsonl.zst", vocab_size=320)
    assert answers[1].prompt_length == 500
    cut = replace(OPTIONS, max_prompt_tokens=16)
    collect(target, path, tmp_path / "b.jsonl", cut)
    assert [len(record["prompt_token_ids"]) for record in records(tmp_path / "b.jsonl")][-1] == 16


def test_the_lm_head_reads_contiguous_rows(target):
    """A strided slice of a batch makes bfloat16 linear layers a thousand times slower, and takes tens of GB."""
    strides = []
    head = target.model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, inputs: strides.append(inputs[0].is_contiguous()))
    questions = [TokenizedPrompt(str(i), "", (1, 2 + i, 3)) for i in range(3)]
    decode_batch(target, questions, max_new_tokens=2, sampling=Sampling())
    hook.remove()
    assert strides
    assert all(strides)


def test_prompts_without_ids_of_their_own_get_noise_of_their_own(target, tmp_path):
    """Three equal prompts whose ids are null: equal noise would give equal answers."""
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": null, "prompt": "the fox"}\n' * 3)
    collect(target, path, tmp_path / "a.jsonl", replace(OPTIONS, sampling=Sampling(temperature=1.0)))
    found = records(tmp_path / "a.jsonl")
    assert len({record["id"] for record in found}) == 3
    assert len({tuple(record["response_token_ids"]) for record in found}) == 3


def test_conversations_are_answered_at_every_turn(target, tmp_path):
    turns = [
        {"role": "system", "content": "by night"},
        {"role": "user", "content": "hen"},
        {"role": "assistant", "content": "the fox"},
        {"role": "user", "content": "and?"},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"messages": turns, "id": "a"}) + "\n")
    last = collect(target, path, tmp_path / "last.jsonl", OPTIONS)
    each = collect(target, path, tmp_path / "each.jsonl", replace(OPTIONS, all_turns=True))
    assert (last.answers, each.answers) == (1, 2)
    [only], both = records(tmp_path / "last.jsonl"), records(tmp_path / "each.jsonl")
    assert [record["id"] for record in both] == ["a:1", "a:2"]
    assert both[1] | {"id": "a", "run": only["run"]} == only
    assert both[1]["run"] == both[0]["run"] != only["run"]
    for record, end in zip(both, (2, 4), strict=True):
        assert record["conversations"][:-1] == turns[:end]
        prompt_ids = target.chat_ids(turns[:end])
        assert record["prompt_token_ids"] == prompt_ids
        assert record["response_token_ids"] == plain(target, prompt_ids, OPTIONS.max_new_tokens)
    [answer] = read_answers(tmp_path / "last.jsonl", vocab_size=target.rows)
    assert answer.prompt_length == len(only["prompt_token_ids"])


def test_a_conversation_needs_a_template(target, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "hen"}]}) + "\n")
    with pytest.raises(UsageError, match="prompt 1 is a conversation"):
        collect(target, path, tmp_path / "a.jsonl", replace(OPTIONS, raw=True))
