"""Published figures of FR-Spec (arXiv 2502.14856), as far as this project makes figures of its own to hold beside them.

Averages over the paper's seven tasks; SlimPajama's subsets where nothing else is said, on one A800 or A100.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One model of the paper.

    vocabulary: its size.
    lengths: acceptance length by the size of the subset, the full vocabulary included, with SlimPajama's counts.
    other_lengths: the same with ShareGPT's counts; {} where only parts of the row are known.
    """

    model: str
    vocabulary: int
    lengths: dict[int, float]
    other_lengths: dict[int, float]

    def kept(self, share: int) -> float | None:
        """The acceptance length with one `share`-th of the vocabulary over that with all of it."""
        size = {2: 65536, 4: 32768, 8: 16384, 16: 8192}.get(share)
        return None if size is None else self.lengths[size] / self.lengths[self.vocabulary]


MODELS = (
    Published(
        "Llama-3-8B",
        128256,
        {128256: 3.89, 65536: 3.80, 32768: 3.63, 16384: 3.40, 8192: 3.13},
        {65536: 3.77, 32768: 3.57, 16384: 3.32, 8192: 3.06},
    ),
    Published(
        "Llama-3.2-1B",
        128256,
        {128256: 2.81, 65536: 2.77, 32768: 2.69, 16384: 2.60, 8192: 2.49},
        {65536: 2.77, 32768: 2.69, 16384: 2.59, 8192: 2.49},
    ),
)
"""Tables of acceptance length; Qwen-2-7B's lies between these two."""
SPEEDS = {
    "Llama-3-8B, T = 0": {"plain": 89.11, "EAGLE-2": 180.99, "V/2": 196.86, "V/4": 201.87, "V/8": 196.69, "V/16": 185.98},
    "Llama-3-8B, T = 1": {"plain": 88.69, "EAGLE-2": 172.74, "V/4": 195.17},
    "Llama-3.2-1B, T = 0": {
        "plain": 252.03, "EAGLE-2": 323.51, "V/2": 365.67, "V/4": 390.13, "V/8": 401.90, "V/16": 391.01,
    },
}  # fmt: skip
"""Tokens per second by the size of the subset."""
HEAD_OF_DRAFT = 0.49
"""The LM head's share of a draft's time; 0.62 with the softmax."""
COVERED = (0.25, 0.95)
"""That share of the vocabulary makes up that share of the text (SlimPajama, Llama-3's tokenizer)."""
