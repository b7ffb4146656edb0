"""What a training step takes on a card: memory and time, before anything is trained or even loaded.

The head's own step is run as it is trained, but over fake tensors, which have shapes and no numbers: so its memory is that
of the code, whatever the code is. What the target takes is arithmetic. Times are predictions from operations alone.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from frspec_cli.answers.records import Answer
from frspec_cli.answers.states import TARGET_TOKENS
from frspec_cli.heads.config import HeadConfig, head_config_for
from frspec_cli.heads.head import EagleHead
from frspec_cli.models.lm_head import LmHead
from frspec_cli.training.batches import Batch, make_batch
from frspec_cli.training.features import TEACHER_TOKENS, Features
from frspec_cli.training.loss import LossRows
from frspec_cli.training.optimizer import is_matrix
from frspec_cli.training.options import TrainOptions
from frspec_cli.training.step import batch_loss
from frspec_cli.training.trainer import FREQUENT_ROWS, trained_weights

CARDS = {"A100": 312e12, "H100": 989e12}
"""Cards of 80 GB, by their dense bfloat16 operations a second (NVIDIA's data sheets)."""
CARD_BYTES = 80 * 10**9
_REACHED = 0.4  # share of them that large matrix products reach with all that is between them
_EXCHANGED = 200e9  # bytes a second in which eight cards of a machine add up gradients
_NEW_ROWS = 2048  # teacher's tokens of a batch beyond the frequent rows


@dataclass(frozen=True)
class StepCost:
    """Of one batch through the head, forward and backward.

    peak: bytes at once of what the step makes, gradients included.
    operations: floating point, of matrix products.
    """

    peak: int
    operations: int


@dataclass(frozen=True)
class Estimate:
    """Bytes on each card, and the operations of a step.

    target: its weights.
    head: the head's weights, the optimizer's state and the moving average, float32, and its copy of the embedding.
    step: the peak of a batch through the head, with its features.
    target_pass: what a pass of the target needs besides its weights; 0 if features are on disk.
    target_operations, head_operations, optimizer_operations: of a step on one card.
    tokens: answered tokens of a step on one card.
    parameters: trained ones of the head.
    """

    target: int
    head: int
    step: int
    target_pass: int
    target_operations: int
    head_operations: int
    optimizer_operations: int
    tokens: int
    parameters: int

    @property
    def total(self) -> int:
        """Bytes at the peak; a batch's pass of the target is over before the head's step begins."""
        return self.target + self.head + max(self.step, self.target_pass)

    def seconds(self, card: str, *, cards: int = 1) -> float:
        """Predicted time of a step; several cards each take a batch, and add up their float32 gradients."""
        work = self.target_operations + self.head_operations + self.optimizer_operations
        exchange = 0.0 if cards == 1 else 2 * 4 * self.parameters / _EXCHANGED
        return work / (_REACHED * CARDS[card]) + exchange


@dataclass(frozen=True)
class Sequences:
    """The answers that an estimate is made for. prompt, answered: tokens of each."""

    prompt: int = 256
    answered: int = 512


def estimate(
    target_config: Any,
    config: HeadConfig,
    options: TrainOptions,
    sequences: Sequences,
    *,
    online: bool,
    recompute: bool,
) -> Estimate:
    """What training a head of `config` takes for a target of `target_config` (transformers' config) in bfloat16."""
    parameters = target_parameters(target_config)
    vocabulary, hidden = target_config.vocab_size, config.feature_size
    queries = sequences.answered - 1
    count = max(1, options.batch_tokens // queries)
    positions = count * (sequences.prompt + queries)
    with FakeTensorMode(allow_non_fake_inputs=True):
        embedding = torch.empty(vocabulary, config.hidden_size)
        own = None
        if config.draft_vocab_size:
            own = LmHead(torch.nn.Parameter(torch.empty(config.draft_vocab_size, config.hidden_size)))
        head = EagleHead(config, embedding_weight=embedding, own_lm_head=own)
        weights = trained_weights(head)
        answer = Answer(np.zeros(sequences.prompt + sequences.answered, np.int64), sequences.prompt, True, False)
        batch = fake_batch([answer] * count, hidden=hidden, taps=len(config.taps), dtype=torch.bfloat16)
        rows = fake_rows(config, options, vocabulary=vocabulary, own=own, dtype=torch.bfloat16)
        cost = measure_step(head, batch, rows, options, recompute=recompute, autocast=True)
        held = [weights[name].numel() for name in weights]
        states = [1 if options.optimizer == "muon" and is_matrix(name, weights[name]) else 2 for name in weights]
        newton = sum(_newton_schulz(*w.shape) for (name, w), n in zip(weights.items(), states, strict=True) if n == 1)
    trained = sum(held)
    head_bytes = 4 * (trained * (2 if options.ema else 1) + sum(n * k for n, k in zip(held, states, strict=True)))
    layers, features = target_config.num_hidden_layers, 2 * positions * hidden * (1 + len(config.taps))
    one_pass = max(TARGET_TOKENS, sequences.prompt + sequences.answered)
    passing = 2 * one_pass * ((layers + 1) * hidden + 3 * target_config.intermediate_size)
    return Estimate(
        target=2 * parameters,
        head=head_bytes + 4 * vocabulary * config.hidden_size,
        step=cost.peak + features + (2 * rows.head.weight.numel() if own is None else 0),
        target_pass=features + passing if online else 0,
        target_operations=2 * parameters * positions if online else 0,
        head_operations=cost.operations,
        optimizer_operations=newton,
        tokens=count * queries,
        parameters=trained,
    )


def measure_step(
    head: EagleHead, batch: Batch, rows: LossRows, options: TrainOptions, *, recompute: bool, autocast: bool
) -> StepCost:
    """Runs one batch, forward and backward, once for each of the two counts; gradients stay on the weights.

    With `recompute` the peak is a bound: while it is counted, some tensors live a little longer than they would.
    """

    def run() -> None:
        for weight in trained_weights(head).values():
            weight.grad = None
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=autocast):
            loss, _ = batch_loss(head, batch, rows, tokens=len(batch.left), options=options, recompute=recompute)
        loss.backward()

    with FlopCounterMode(display=False) as counted:
        run()
    with _Live() as live:
        run()
    return StepCost(live.peak, counted.get_total_flops())


def target_parameters(config: Any) -> int:
    """The number of a target's weights; tied ones count once."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(weight.numel() for weight in model.parameters())


def fake_batch(answers: list[Answer], *, hidden: int, taps: int, dtype: torch.dtype) -> Batch:
    """A batch whose features have shapes and nothing else."""
    features = [
        Features(
            torch.zeros(len(answer.ids) - 1, hidden, dtype=dtype),
            tuple(torch.zeros(len(answer.ids) - 1, hidden, dtype=dtype) for _ in range(taps)),
            torch.zeros(answer.queries, TEACHER_TOKENS, dtype=torch.int64),
            torch.ones(answer.queries, TEACHER_TOKENS),
        )
        for answer in answers
    ]
    return make_batch(answers, features, device="cpu")


def fake_rows(
    config: HeadConfig, options: TrainOptions, *, vocabulary: int, own: LmHead | None, dtype: torch.dtype
) -> LossRows:
    """As many rows of the LM head as a batch's loss takes: frequent ones, the teacher's and the sampled ones."""
    count = vocabulary
    if own is None and options.sampled_rows is not None:
        count = min(vocabulary, FREQUENT_ROWS + _NEW_ROWS + options.sampled_rows)
    head = own or LmHead(torch.zeros(count, config.hidden_size, dtype=dtype))
    return LossRows(head, torch.zeros(head.size), torch.zeros(vocabulary, dtype=torch.int64))


def _newton_schulz(rows: int, columns: int) -> int:
    """Operations of Muon's five iterations on a matrix: X X', A A and B X each time."""
    small, large = sorted((rows, columns))
    return 5 * (4 * small * small * large + 2 * small**3)


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are made in it, for as long as they live. peak: the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage(), count=False)  # what was there before
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage(), count=True)
        return out

    def _see(self, storage: torch.UntypedStorage, *, count: bool) -> None:
        key, size = id(storage), storage.nbytes() if count else 0
        if key in self._known and self._known[key]() is storage:
            return

        def gone(_: Any) -> None:
            self.now -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


PUBLIC = ("1B", "8B", "70B")
"""Targets of the table in docs/training.md, with the sizes of Llama 3.2 and 3.1."""


def public_config(name: str) -> Any:
    """The config of a target of `PUBLIC` (figures of its config.json on the hub)."""
    from transformers import LlamaConfig

    hidden, intermediate, layers, heads, head_dim = {
        "1B": (2048, 8192, 16, 32, 64),
        "8B": (4096, 14336, 32, 32, 128),
        "70B": (8192, 28672, 80, 64, 128),
    }[name]
    return LlamaConfig(
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=head_dim,
        max_position_embeddings=131072,
        tie_word_embeddings=name == "1B",
    )


def public_table() -> list[str]:
    """Lines of Markdown: a step of 16,384 answered tokens on each card, for each of `PUBLIC`, online, as `fused`."""
    lines = [
        "| target | recompute | target | head, optimizer | step | target's pass | a card, GB | step, s: A100, H100 | "
        "tokens a second on 1 and 8 A100 | on H100 |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in PUBLIC:
        config = public_config(name)
        for recompute in (False, True):
            options = TrainOptions(batch_tokens=16384)
            found = estimate(config, head_config_for(config), options, Sequences(), online=True, recompute=recompute)
            lines.append(f"| {name} | {'yes' if recompute else 'no'} | {' | '.join(_cells(found))} |")
    return lines


def _cells(found: Estimate) -> list[str]:
    parts = (found.target, found.head, found.step, found.target_pass)
    cells = [f"{part / 1e9:.1f}" for part in parts]
    if found.total > CARD_BYTES:
        return [*cells, f"**{found.total / 1e9:.0f}**", "does not fit", "", ""]
    cells.append(f"{found.total / 1e9:.0f}")
    cells.append(", ".join(f"{found.seconds(card):.2g}" for card in CARDS))
    for card in CARDS:
        rates = [cards * found.tokens / found.seconds(card, cards=cards) for cards in (1, 8)]
        cells.append(", ".join(f"{float(f'{rate:.2g}'):,.0f}" for rate in rates))
    return cells
