"""`--compile`: the engine's steps through `torch.compile`.

What is compiled are functions of tensors of fixed shape, each as one graph: the target's step (forward pass and walk), the
draft's tree, and the draft's block of accepted rows. The prompt's pass, whose shape changes, is not, nor is moving the
accepted rows to the front: inside, all keys and values became one mutated input. On a GPU each graph is replayed as one
CUDA graph. The number of attended slots is 512, 1024, 2048, ..: each compiles once (`warm_up`, before any clock) and never
again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from frspec_cli.errors import FrspecError, option

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Takes a step and returns one that computes the same."""

GRAPHS = 64
"""The most compiled forms of one step that are kept: one per engine, number of attended slots, and greedy or sampling."""


def compiler_for(device: torch.device) -> Compiler:
    """The compiler of steps that run on `device`. Raises `FrspecError` if no tool to compile with is installed."""
    _check_tools(device)
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    # An operation on the host would otherwise cost the CUDA graph, with no more than a line in a log.
    torch._inductor.config.triton.cudagraph_or_error = True
    return _as_cuda_graph if device.type == "cuda" else _as_one_graph


def mark_static(*tensors: torch.Tensor | None) -> None:
    """Declares that these tensors keep their address (weights, caches): a CUDA graph then uses them in place."""
    for tensor in tensors:
        if tensor is not None:
            torch._dynamo.mark_static_address(tensor)


def _as_one_graph(step: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(step, fullgraph=True, dynamic=False)


def _as_cuda_graph(step: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(step, fullgraph=True, dynamic=False, mode="reduce-overhead")

    def run(*arguments: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        # The next replay of any graph overwrites what this one returns, and a draft outlives its own step.
        return pytree.tree_map_only(torch.Tensor, torch.clone, compiled(*arguments))

    return run


def _check_tools(device: torch.device) -> None:
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise FrspecError(
                f"{option('compile')} needs Triton on a GPU, and there is none here.",
                hint=f"Install triton, or leave out {option('compile')}.",
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError:
        raise FrspecError(
            f"{option('compile')} needs a C++ compiler, and there is none here.",
            hint=f"Install one (g++ or clang++; CXX names another), or leave out {option('compile')}.",
        ) from None
