"""`--compile`: each step is one graph, gives the same ids, and after warm-up compiles no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._guards import TracingContext

from frspec_cli.decoding.cache import FIRST_BUCKET
from frspec_cli.decoding.context_slots import ContextSlots
from frspec_cli.decoding.drafters import Drafter, EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.lookup import LookupDrafter
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.decoding.pipeline import Pipeline
from frspec_cli.decoding.sampling import Sampling
from frspec_cli.decoding.warm_up import warm_up
from frspec_cli.heads.config import head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.target import Target
from tests.decoding.families import DENSE
from tests.models.test_target import family_model
from tests.tiny import NoProcessor

PROMPT = [3, 9, 27, 81, 5, 6, 7, 8, 4, 2, 60]
SAMPLING = Sampling(temperature=0.9, top_k=40, top_p=0.95, seed=3)
ONE_GRAPH = partial(torch.compile, fullgraph=True, dynamic=False, backend="aot_eager")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _target(family: str = "Llama") -> Target:
    return Target(name=family, folder=Path("."), model=family_model(family), processor=NoProcessor())


def _drafter(target: Target, compiler: Any, *, slots: int = 0) -> EagleDrafter:
    torch.manual_seed(2)
    head = EagleHead(head_config_for(target.config, taps=(1,)), embedding_weight=target.embedding)
    head = head.to(target.dtype).eval().requires_grad_(False)
    rows = target.lm_head.rows(torch.arange(60))
    spare = ContextSlots(rows, target.lm_head, slots) if slots else None
    return EagleDrafter(head, rows, TreeConfig(3, 2, 7), slots=spare, compiler=compiler)


def _ids(target: Target, drafter: Drafter | None, compiler: Any = None, **options: Any) -> list[int]:
    engine = Engine(target, drafter, compiler=compiler)
    return engine.complete(PROMPT, max_new_tokens=20, ignore_eos=True, **options).token_ids


@pytest.mark.slow
@pytest.mark.parametrize("family", DENSE)
def test_every_familys_steps_are_one_graph_each_and_give_the_same_ids(family: str) -> None:
    target = _target(family)
    compiled = _ids(target, _drafter(target, ONE_GRAPH), ONE_GRAPH)
    assert compiled == _ids(target, _drafter(target, None)) == _ids(target, None)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ar", "lookup", "context slots"])
def test_every_drafter_and_sampling_compile(method: str) -> None:
    target = _target()
    made = {
        "ar": lambda: None,
        "lookup": lambda: LookupDrafter(3),
        "context slots": lambda: _drafter(target, ONE_GRAPH, slots=3),
    }[method]
    for sampling in (None, SAMPLING):
        assert _ids(target, made(), ONE_GRAPH, sampling=sampling) == _ids(target, None, sampling=sampling)


@pytest.mark.parametrize("sampling", [None, pytest.param(SAMPLING, marks=pytest.mark.slow)], ids=["greedy", "sampling"])
def test_each_bucket_compiles_once_and_no_text_ever_again(sampling: Sampling | None, monkeypatch) -> None:
    """Buckets of 64 and 128 slots: warmed up once, then any text that fits runs what is there."""
    monkeypatch.setattr("frspec_cli.decoding.cache.FIRST_BUCKET", 64)
    target = _target()
    engine = Engine(target, _drafter(target, ONE_GRAPH, slots=4), compiler=ONE_GRAPH)
    warm_up(engine, [PROMPT, [5] * 3000], max_new_tokens=70, sampling=sampling)  # the second does not fit at all
    with torch.compiler.set_stance("fail_on_recompile"):
        for prompt, new in ((PROMPT, 70), ([5], 12), (PROMPT[::-1] * 3, 40)):
            generation = engine.complete(prompt, max_new_tokens=new, sampling=sampling, ignore_eos=True)
            plain = Engine(target).complete(prompt, max_new_tokens=new, sampling=sampling, ignore_eos=True)
            assert generation.token_ids == plain.token_ids
        with pytest.raises(RuntimeError, match="recompile"):
            engine.complete(PROMPT * 12, max_new_tokens=8, sampling=sampling)


def test_what_a_cuda_graph_would_write_or_copy_stands_still() -> None:
    """A CUDA graph writes only inputs of fixed address, and copies all others at each replay: those must be small."""
    seen: list[tuple[list[int], list[torch.Tensor], set[int]]] = []

    def look(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        found = TracingContext.get().fw_metadata
        written = [index for index, each in enumerate(found.input_info) if each.mutates_data]
        seen.append((written, inputs, set(found.static_input_indices)))
        return graph.forward

    compiler = partial(torch.compile, fullgraph=True, dynamic=False, backend=aot_autograd(fw_compiler=look))
    target = _target()
    _ids(target, _drafter(target, compiler, slots=3), compiler)
    layers = target.config.num_hidden_layers
    assert [len(written) for written, _, _ in seen] == [2, 2 * layers, 2]  # tree, target, block: keys and values
    for written, inputs, still in seen:
        assert set(written) <= still
        assert max(each.numel() for index, each in enumerate(inputs) if index not in still) < 5 * FIRST_BUCKET


def test_without_a_compiler_one_sentence(cli, tiny_folder) -> None:
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        code, out, err = cli("generate", "the fox", "--model", tiny_folder, "--device", "cpu", "--compile")
    assert (code, out) == (1, "")
    assert "--compile needs a C++ compiler, and there is none here." in " ".join(err.split())


@pytest.mark.slow
def test_the_command_compiles_with_inductor(cli, tiny_folder) -> None:
    arguments = ["generate", "the fox", "--model", tiny_folder, "--device", "cpu", "--dtype", "float64", "-n", 40]
    arguments += ["--method", "lookup", "--ignore-eos", "--json", "-q"]
    plain, compiled = (json.loads(cli(*arguments, *more)[1]) for more in ([], ["--compile"]))
    assert (plain["compiled"], compiled["compiled"]) == (False, True)
    assert compiled["token_ids"] == plain["token_ids"]


def test_no_text_is_timed_while_it_compiles(cli, tiny_folder, tmp_path, monkeypatch) -> None:
    """`generate --compile`: what its prompts need is compiled before the first of them; then none of them compiles."""
    compiled: list[str] = []

    def compiler(step: Any) -> Any:
        made = ONE_GRAPH(step)

        def run(*arguments: Any) -> Any:
            before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
            result = made(*arguments)
            if torch._dynamo.utils.counters["stats"]["unique_graphs"] > before:
                compiled.append(state[-1])
            return result

        return run

    state = ["before"]
    stream = Pipeline.stream
    monkeypatch.setattr(Pipeline, "stream", lambda *arguments: state.append("text") or stream(*arguments))
    monkeypatch.setattr("frspec_cli.decoding.compiling.compiler_for", lambda device: compiler)
    monkeypatch.setattr("frspec_cli.decoding.cache.FIRST_BUCKET", 64)
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "the fox"}\n{"prompt": "a hen and a fox and a hen"}\n')
    arguments = ["--prompts", file, "--model", tiny_folder, "--device", "cpu", "--dtype", "float64", "-n", 60]
    code, out, err = cli("generate", *arguments, "--method", "lookup", "--compile", "--json", "--ignore-eos")
    assert code == 0, err
    assert "compiling, before the clock starts" in err
    assert len(out.splitlines()) == 2
    assert compiled
    assert set(compiled) == {"before"}
