"""What this device computes fast, in about a second: products of the model's own LM head shape, in every dtype.

A target's step reads all of its weights once, as such a product does, so its time follows from the product's and from the
number of weights; what a layer costs besides (Python, and dispatching some forty small operations) is measured on a layer
of no size. All of that is an estimate, good enough to see that bfloat16 has no instructions here, or that a row more is
nearly free; `frspec tune` measures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field

from frspec_cli import schema, storage
from frspec_cli.environment import machine
from frspec_cli.errors import FrspecError
from frspec_cli.tuning.costs import Figure, HeadPoint, LevelPoint, Ms, Number, PlainPoint, StepCosts, TargetPoint, line
from frspec_cli.tuning.kept import kept
from frspec_cli.tuning.shapes import HeadShape, ModelShape

SCHEMA = 1
ROWS = (1, 4, 16)
_MOST_NUMBERS = 40_000_000
"""Of the matrix that is multiplied by: more than any cache of a processor holds, and still quick."""
_SECONDS, _LEAST_ROUNDS, _MOST_ROUNDS = 0.8, 2, 20
_BUSY = 1.5
"""Load a core from which on a probe is used once and not kept."""
_BLOCK_ROWS = 4
# Small operations of each piece in units of a decoder layer's (some 42): counted on the meta device.
_LEVEL_OPS, _CYCLE_OPS = 1.6, 3.0


class Product(schema.Schema):
    """The shortest time of [rows, hidden] times the matrix: what else the machine does only adds to it."""

    dtype: Literal["bfloat16", "float16", "float32"]
    rows: Number
    ms: Ms


class Probe(schema.Schema):
    """One machine's figures for matrices of one width.

    numbers: of the matrix that was multiplied by.
    layer_ms: what a decoder layer of no size takes.
    """

    kind: Literal["probe"]
    version: Annotated[int, Field(alias="schema", ge=1, le=SCHEMA, strict=True)]
    machine: dict[str, Any]
    torch: str
    numbers: Annotated[int, Field(ge=1, strict=True)]
    products: Annotated[list[Product], Field(min_length=1, max_length=64)]
    layer_ms: Ms

    @property
    def dtypes(self) -> list[str]:
        """The dtypes that were tried."""
        return list(dict.fromkeys(product.dtype for product in self.products))

    def product_ms(self, dtype: str, rows: int, numbers: float) -> float:
        """The product of `rows` rows with a matrix of so many numbers."""
        points = [(product.rows, product.ms) for product in self.products if product.dtype == dtype]
        return line(points, rows) * numbers / self.numbers


def probe_for(shape: ModelShape, device: str, *, say: Callable[[str], None] = lambda text: None) -> Probe:
    """The probe for models of this shape on this machine: from the cache, or made now and kept there.

    say: called before it is made.
    """
    import torch

    described = machine()
    key = {"schema": SCHEMA, "machine": described, "torch": torch.__version__, "device": device, **vars(shape)}
    path = kept("probe", key)
    if path.is_file():
        try:
            return schema.check(Probe, schema.read_object(path), path)
        except FrspecError:
            say(f"{path} is damaged and is made again")
    say("measuring for a second what this machine computes fast")
    products, numbers = measure_products(shape, candidates(device), device)
    record = {
        "kind": "probe",
        "schema": SCHEMA,
        "machine": described,
        "torch": torch.__version__,
        "numbers": numbers,
        "products": products,
        "layer_ms": measure_layer(device),
    }
    found = schema.check(Probe, record, path)
    if not _busy():  # then it may be wrong, and is made again next time
        storage.write_json(path, record)
    return found


def _busy() -> bool:
    """Whether other processes keep this machine's cores from the probe."""
    cores = os.cpu_count() or 1
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > _BUSY * cores


def candidates(device: str) -> tuple[str, ...]:
    """The dtypes that may be the fastest on a device: of a GPU those that it has instructions for."""
    import torch

    if device.startswith("cpu"):
        return ("bfloat16", "float32")
    if not device.startswith("cuda"):
        return ("bfloat16",)
    return ("bfloat16",) if torch.cuda.is_bf16_supported(including_emulation=False) else ("float16",)


def measure_products(
    shape: ModelShape, dtypes: Sequence[str], device: str, rows: Sequence[int] = ROWS
) -> tuple[list[dict[str, Any]], int]:
    """(fields of `Product`, numbers of the matrix): all dtypes and rows take turns."""
    import torch

    height = max(1, min(shape.rows, _MOST_NUMBERS // shape.hidden))
    works: dict[tuple[str, int], Callable[[], Any]] = {}
    for dtype in dtypes:
        matrix = torch.full((height, shape.hidden), 0.01, dtype=getattr(torch, dtype), device=device)
        for count in rows:
            vector = torch.full((count, shape.hidden), 0.01, dtype=matrix.dtype, device=device)
            works[dtype, count] = partial(torch.nn.functional.linear, vector, matrix)
    seconds = take_turns(works, device)
    products = [{"dtype": dtype, "rows": count, "ms": 1000 * min(each)} for (dtype, count), each in seconds.items()]
    return products, height * shape.hidden


def take_turns(works: dict[Any, Callable[[], Any]], device: str) -> dict[Any, list[float]]:
    """Seconds of each piece of work, round by round, after one unmeasured round."""
    import torch

    def run(work: Callable[[], Any]) -> float:
        begin = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    with torch.inference_mode():
        for work in works.values():
            run(work)
        seconds: dict[Any, list[float]] = {name: [] for name in works}
        begin = time.perf_counter()
        for number in range(_MOST_ROUNDS):
            if number >= _LEAST_ROUNDS and time.perf_counter() - begin > _SECONDS:
                break
            for name, work in works.items():
                seconds[name].append(run(work))
    return seconds


def measure_layer(device: str) -> float:
    """Milliseconds of a decoder layer whose matrices are tiny: what four such layers take more than one, of one row."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    models = {}
    with torch.random.fork_rng(devices=[]):
        for layers in (1, 4):
            config = LlamaConfig(
                vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=32,
            )  # fmt: skip
            models[layers] = LlamaModel(config).eval().to(torch.device(device))  # type: ignore[arg-type]
    ids = torch.zeros(1, 1, dtype=torch.int64, device=device)
    works: dict[Any, Callable[[], Any]] = {
        layers: partial(model, input_ids=ids, use_cache=False) for layers, model in models.items()
    }
    seconds = take_turns(works, device)
    return max(0.0, 1000 * (min(seconds[4]) - min(seconds[1])) / 3)


def estimate(probe: Probe, shape: ModelShape, head: HeadShape | None, *, compiled: bool = False) -> list[StepCosts]:
    """The costs of every dtype of a probe. Without a head those of a draft are of no use, and are zero.

    compiled: then dispatching costs next to nothing.
    """
    layer = 0.0 if compiled else probe.layer_ms
    lm_head = shape.rows * shape.hidden
    full = head.own_rows if head is not None and head.own_rows else shape.rows
    costs = []
    for dtype in probe.dtypes:

        def product(rows: int, numbers: float, dtype: str = dtype) -> float:
            return probe.product_ms(dtype, rows, numbers)

        step = {rows: product(rows, shape.weights + lm_head) + layer * shape.layers for rows in ROWS}
        weights = head.weights if head is not None else 0
        costs.append(
            StepCosts(
                dtype=dtype,  # type: ignore[arg-type]
                k=full,
                plain=[PlainPoint(context=1, ms=step[1])],
                target=[TargetPoint(context=1, rows=rows, ms=ms) for rows, ms in step.items()],
                level=[LevelPoint(rows=rows, ms=product(rows, weights) + _LEVEL_OPS * layer) for rows in ROWS],
                head=[
                    HeadPoint(k=k, rows=rows, ms=product(rows, k * shape.hidden)) for k in (1, full) for rows in ROWS
                ],
                cycle=Figure(ms=product(_BLOCK_ROWS, weights) + _CYCLE_OPS * layer),
                compiled=compiled,
                estimated=True,
            )
        )
    return costs
