"""EAGLE-3.1 and sliding windows against a second implementation, written here from the formulas, in float64.

The reference knows neither caches nor masks of trees: it drafts every path from scratch, one row of attention at a time, and
a row sees the last `window` positions of its own path. Each reading of the config that could be wrong is a mutant of it, and
changes the drafts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from frspec_cli.decoding.drafters import EagleDrafter
from frspec_cli.decoding.engine import Engine
from frspec_cli.decoding.options import TreeConfig
from frspec_cli.heads.checkpoint import load_head
from frspec_cli.models.target import Target
from tests.decoding.test_draft_oracle import PROMPT, VOCAB, _paths
from tests.tiny import tiny_config, tiny_target

H, HEADS, KV, SIZE, INNER = 32, 4, 2, 8, 40
TAPS = (1, 2, 3)
EPSILON = 1e-5
FREQUENCIES = 1.0 / 10000.0 ** (torch.arange(0, SIZE, 2, dtype=torch.float32) / SIZE)  # in float32, as everyone's
TREE, CHAIN = TreeConfig(depth=4, beam=3, nodes=14), TreeConfig(depth=5, beam=1, nodes=6)
CONFIG = {
    "hidden_size": H, "intermediate_size": INNER, "num_attention_heads": HEADS, "num_key_value_heads": KV,
    "vocab_size": VOCAB, "rms_norm_eps": EPSILON, "max_position_embeddings": 512, "head_dim": SIZE,
    "eagle_aux_hidden_state_layer_ids": list(TAPS),
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """What a config says beside the sizes."""

    norm_output: bool = False
    norm_before_residual: bool = False
    fc_norm: bool = False
    window: int | None = None

    def config(self) -> dict:
        keys: dict = {"norm_before_residual": self.norm_before_residual}
        if self.norm_output:
            keys["norm_output"] = True
        if self.window is not None:
            keys |= {"layer_types": ["sliding_attention"], "sliding_window": self.window}
        return CONFIG | keys


def head_tensors(*, fc_norm: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = {
        "fc": (H, 3 * H), "layers.0.self_attn.q_proj": (HEADS * SIZE, 2 * H), "layers.0.self_attn.k_proj": (KV * SIZE, 2 * H),
        "layers.0.self_attn.v_proj": (KV * SIZE, 2 * H), "layers.0.self_attn.o_proj": (H, HEADS * SIZE),
        "layers.0.mlp.gate_proj": (INNER, H), "layers.0.mlp.up_proj": (INNER, H), "layers.0.mlp.down_proj": (H, INNER),
        "lm_head": (VOCAB, H),
    }  # fmt: skip
    norms = ["layers.0.input_layernorm", "layers.0.hidden_norm", "layers.0.post_attention_layernorm", "norm"]
    norms += [f"fc_norm.{n}" for n in range(3)] if fc_norm else []
    tensors = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    tensors |= {name: 1 + 0.5 * torch.randn(H, generator=generator) for name in norms}
    return {f"{name}.weight": tensor.double() for name, tensor in tensors.items()}  # a head is read in float32


# --- the second implementation


class Reference:
    """The formulas: one vector at a time, positions counted along the path."""

    def __init__(self, tensors: dict[str, torch.Tensor], embedding: torch.Tensor, reading: Reading) -> None:
        self.w = {name.removesuffix(".weight"): tensor for name, tensor in tensors.items()}
        self.embedding = embedding
        self.reading = reading

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x / (x.pow(2).mean() + EPSILON).sqrt() * self.w[name]

    def feature(self, taps: list[torch.Tensor]) -> torch.Tensor:
        if self.reading.fc_norm:
            taps = [self.norm(f"fc_norm.{n}", tap) for n, tap in enumerate(taps)]
        return self.w["fc"] @ torch.cat(taps)

    def rotated(self, x: torch.Tensor, place: int) -> torch.Tensor:
        """Each pair (x[i], x[i + half]) turned by place * base^(-2i/size)."""
        half = SIZE // 2
        out = x.clone()
        for i in range(half):
            angle = place * FREQUENCIES[i].double()
            cos, sin = torch.cos(angle), torch.sin(angle)
            out[i], out[i + half] = x[i] * cos - x[i + half] * sin, x[i + half] * cos + x[i] * sin
        return out

    def step(self, token: int, feature: torch.Tensor, past: list[tuple]) -> tuple[torch.Tensor, list[tuple]]:
        """(what is fed back, past with this row): one row behind the rows of `past`, at position len(past)."""
        layer, place = "layers.0.", len(past)
        normed = self.norm(layer + "hidden_norm", feature)
        residual = normed if self.reading.norm_before_residual else feature
        x = torch.cat((self.norm(layer + "input_layernorm", self.embedding[token]), normed))
        query = (self.w[layer + "self_attn.q_proj"] @ x).view(HEADS, SIZE)
        key = (self.w[layer + "self_attn.k_proj"] @ x).view(KV, SIZE)
        value = (self.w[layer + "self_attn.v_proj"] @ x).view(KV, SIZE)
        past = [*past, ([self.rotated(each, place) for each in key], value)]
        first = 0 if self.reading.window is None else max(0, place + 1 - self.reading.window)
        heads = []
        for head in range(HEADS):
            group, turned = head // (HEADS // KV), self.rotated(query[head], place)
            scores = torch.stack([turned @ keys[group] for keys, _ in past[first:]]) / SIZE**0.5
            weights = torch.softmax(scores, 0)
            heads.append(sum(weight * values[group] for weight, (_, values) in zip(weights, past[first:], strict=True)))
        x = residual + self.w[layer + "self_attn.o_proj"] @ torch.cat(heads)
        y = self.norm(layer + "post_attention_layernorm", x)
        gate, up = self.w[layer + "mlp.gate_proj"] @ y, self.w[layer + "mlp.up_proj"] @ y
        x = x + self.w[layer + "mlp.down_proj"] @ (gate * torch.sigmoid(gate) * up)
        return (self.norm("norm", x) if self.reading.norm_output else x), past

    def law(self, output: torch.Tensor) -> torch.Tensor:
        normed = output if self.reading.norm_output else self.norm("norm", output)
        return torch.log_softmax(self.w["lm_head"] @ normed, 0)

    def tree(self, text: list[int], taps: list[torch.Tensor], shape: TreeConfig) -> tuple[torch.Tensor, set]:
        """(log-probs after the text, the paths of EAGLE-2's tree behind it)."""
        past: list[tuple] = []
        for place, token in enumerate(text[1:]):
            output, past = self.step(token, self.feature([tap[place] for tap in taps]), past)
        first = self.law(output)
        pool, frontier = [], [(0.0, (), output, past)]
        for _ in range(shape.depth):
            level = []
            for score, path, hidden, rows in frontier:
                best = self.law(hidden).topk(shape.beam)
                for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                    level.append((score + value, (*path, token), hidden, rows))
            pool += level
            kept = sorted(level, key=lambda each: -each[0])[: shape.beam]
            frontier = [(score, path, *self.step(path[-1], hidden, rows)) for score, path, hidden, rows in kept]
        best = sorted(pool, key=lambda each: -each[0])[: shape.nodes - 1]
        return first, {path for _, path, _, _ in best}


# --- the two side by side


class Recording(EagleDrafter):
    """Remembers each cycle's root log-probs, tree and position."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.seen: list[tuple] = []

    def propose(self, root, position, valid):
        first = torch.log_softmax(self._logits(self.hidden.index_select(1, valid - 1))[0, 0], dim=-1)
        tree = super().propose(root, position, valid)
        self.seen.append((first, tree, int(position)))
        return tree


@pytest.fixture(scope="module")
def target() -> Target:
    return tiny_target(config=tiny_config(vocab_size=VOCAB))


def recorded(target: Target, folder: Path, reading: Reading, shape: TreeConfig):
    """(the text, the drafter's cycles) of a head that was read from a file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(reading.config()))
    save_file(head_tensors(fc_norm=reading.fc_norm), folder / "model.safetensors")
    override = None if reading.fc_norm else reading.norm_output
    head = load_head(
        folder, target_config=target.config, embedding_weight=target.embedding, dtype=target.dtype, norm_output=override
    )
    drafter = Recording(head, head.own_lm_head, shape)
    generation = Engine(target, drafter).complete(PROMPT, max_new_tokens=10, ignore_eos=True)
    return PROMPT + generation.token_ids, drafter.seen


@torch.inference_mode()
def disagreement(target: Target, text: list[int], seen, reading: Reading, shape: TreeConfig) -> tuple[float, int]:
    """(largest difference of a root log-prob, cycles whose trees differ) from the reference under `reading`."""
    reference = Reference(head_tensors(fc_norm=True), target.embedding, reading)
    states = target.model(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states
    worst, different = 0.0, 0
    for first, tree, position in seen:
        taps = [states[tap][0, :position] for tap in TAPS]
        expected, paths = reference.tree(text[: position + 1], taps, shape)
        worst = max(worst, float((first - expected).abs().max()))
        different += _paths(tree) != paths
    return worst, different


READINGS = {
    "plain": Reading(),
    "norm_output": Reading(norm_output=True),
    "norm_before_residual": Reading(norm_before_residual=True),
    "EAGLE-3.1": Reading(norm_output=True, fc_norm=True),
    "window": Reading(window=4),
    "narrow window": Reading(window=2),
    "all": Reading(norm_output=True, norm_before_residual=True, fc_norm=True, window=3),
}


@pytest.mark.parametrize("shape", [TREE, CHAIN], ids=["tree", "chain"])
@pytest.mark.parametrize("name", READINGS)
def test_drafts_are_those_of_the_formulas(target, tmp_path, name, shape):
    text, seen = recorded(target, tmp_path / "head", READINGS[name], shape)
    worst, different = disagreement(target, text, seen, READINGS[name], shape)
    assert worst < 1e-9
    assert different == 0


@pytest.mark.parametrize("shape", [TREE, CHAIN], ids=["tree", "chain"])
@pytest.mark.parametrize(
    "wrong",
    [{"norm_output": False}, {"norm_before_residual": False}, {"fc_norm": False}, {"window": None}, {"window": 4}],
)
def test_every_wrong_reading_changes_the_drafts(target, tmp_path, wrong, shape):
    text, seen = recorded(target, tmp_path / "head", READINGS["all"], shape)
    worst, different = disagreement(target, text, seen, replace(READINGS["all"], **wrong), shape)
    assert different > 0
    assert worst > 1e-3 or wrong == {"norm_output": False}  # which the first step, over the target's states, never sees
