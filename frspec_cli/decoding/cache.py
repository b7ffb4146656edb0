"""A key-value cache of fixed length whose rows are written at slots that the engine chooses.

transformers' own static cache keeps sliding layers as rings, which can neither hold a tree nor roll one back. Here every
layer has the full length, is part of one buffer, and accepted rows are gathered to the front for all layers at once.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from frspec_cli.decoding.attention import unsupported
from frspec_cli.decoding.compiling import mark_static

LENGTH_STEP = 256
"""Cache lengths are multiples of this."""

ATTENDED_STEP = 32
"""Attention reads this many slots or a multiple: the text's own, rounded up, whatever the cache could hold."""

FIRST_BUCKET = 512
"""Compiled steps, made once for each shape, read this many slots, or twice, four times, .. as many."""

_PER_BUFFER = {"head_dim", "num_attention_heads", "num_key_value_heads", "sliding_window"}
"""What a config must state once for all layers."""


def cache_length(tokens: int, *, compiled: bool = False) -> int:
    """The length of a cache that must hold `tokens` rows, rounded up."""
    return bucket(tokens) if compiled else round_up(tokens, LENGTH_STEP)


def attended(tokens: int, *, compiled: bool) -> int:
    """How many slots a step reads that must see the first `tokens`."""
    return bucket(tokens) if compiled else round_up(tokens, ATTENDED_STEP)


def bucket(tokens: int) -> int:
    """The first of 512, 1024, 2048, .. that is not below `tokens`."""
    return FIRST_BUCKET << max(0, (tokens - 1) // FIRST_BUCKET).bit_length()


def round_up(number: int, step: int) -> int:
    """The first multiple of `step` that is not below `number`."""
    return -(-number // step) * step


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [R, KV, L, D] each: `update` writes T rows at the buffer's `slots` (int64 [T])."""

    is_compileable = True
    is_sliding = False

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, buffer: SlotBuffer, index: int) -> None:
        super().__init__()
        self.buffer = buffer
        self.index = index
        self.keys = buffer.data[2 * index]
        self.values = buffer.data[2 * index + 1]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes [R, KV, T, D] rows and returns the keys and values of the slots that are attended, [R, KV, A, D].

        Raises `FrspecError` if the layer's heads are not those that the config promised.
        """
        self._check("keys", key_states)
        self._check("values", value_states)
        slots, begin, end = self.buffer.slots, self.buffer.begin, self.buffer.end
        assert slots is not None
        self.keys.index_copy_(2, slots, key_states)
        self.values.index_copy_(2, slots, value_states)
        return self.keys[:, :, begin:end], self.values[:, :, begin:end]

    def _check(self, name: str, states: torch.Tensor) -> None:
        """Latent attention (DeepSeek) and heads whose size depends on the layer (Gemma-4) do not fit one buffer."""
        _, heads, _, size = states.shape
        if (heads, size) != (self.keys.shape[1], self.keys.shape[3]):
            raise unsupported(
                self.buffer.config,
                f"has {name} of {heads} heads x {size} numbers in layer {self.index}, where frspec's cache holds "
                f"{self.keys.shape[1]} x {self.keys.shape[3]} in every layer",
            )

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the buffer exists from the start."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(length, offset) for transformers' own masks, which frspec replaces."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        """0: positions are always given, never derived from the cache."""
        return 0

    def get_max_length(self) -> int:
        """L."""
        return self.keys.shape[2]


class SlotBuffer:
    """The cache of R texts in a model with uniform layers, and the slots to write at next.

    data: [2 * layers, R, KV, L, D].
    slots: int64 [T], the same for all texts; see `expect`.
    begin, end: the slots that are attended.
    config: the model's, to name it in errors.
    """

    def __init__(self, data: torch.Tensor, config: Any = None) -> None:
        self.data = data
        self.config = config
        self.slots: torch.Tensor | None = None
        self.begin, self.end = 0, data.shape[3]
        self.layers = [SlotLayer(self, index) for index in range(len(data) // 2)]

    @staticmethod
    def zeros(
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
        texts: int = 1,
        config: Any = None,
    ) -> SlotBuffer:
        """An empty buffer. Zeros, not empty memory: a NaN in a masked value row would still poison every sum it is in."""
        data = torch.zeros(2 * layers, texts, kv_heads, length, head_dim, dtype=dtype, device=device)
        return SlotBuffer(data, config)

    @staticmethod
    def for_model(config: Any, *, length: int, dtype: torch.dtype, device: torch.device) -> SlotBuffer:
        """The buffer that a transformers text config calls for. Raises `FrspecError` if its layers are not uniform."""
        varying = sorted(_PER_BUFFER & (getattr(config, "per_layer_attributes", None) or set()))
        if varying:
            raise unsupported(config, f"has a {varying[0]} that differs between layers, where frspec's cache needs one")
        heads = config.num_attention_heads
        return SlotBuffer.zeros(
            layers=config.num_hidden_layers,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            length=length,
            dtype=dtype,
            device=device,
            config=config,
        )

    def expect(self, slots: torch.Tensor | None, begin: int = 0, end: int | None = None) -> None:
        """Before a forward pass of T rows: where they are written (int64 [T]) and which slots they may attend to.

        After it, `expect(None)`.
        """
        self.slots = slots
        self.begin, self.end = begin, self.data.shape[3] if end is None else end

    @property
    def length(self) -> int:
        """L."""
        return self.data.shape[3]

    @property
    def kv_heads(self) -> int:
        """KV."""
        return self.data.shape[2]

    @property
    def bytes(self) -> int:
        """Memory in bytes."""
        return self.data.numel() * self.data.element_size()

    def text(self, number: int) -> SlotBuffer:
        """One text's part: a view, so that writing there writes here."""
        return SlotBuffer(self.data[:, number : number + 1], self.config)

    def texts(self, numbers: torch.Tensor) -> SlotBuffer:
        """A copy with some of the texts (int64 [R])."""
        return SlotBuffer(self.data[:, numbers], self.config)

    def mark_static(self) -> None:
        """For a compiled step: declares that the rows keep their address."""
        mark_static(*(tensor for layer in self.layers for tensor in (layer.keys, layer.values)))

    def as_cache(self) -> Cache:
        """The view that a transformers model takes as `past_key_values`."""
        return Cache(layers=list(self.layers))

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copies the rows at slots `source` to slots `target` (int64 [M] each) in every layer, reading before writing."""
        self.data.index_copy_(3, target, self.data.index_select(3, source))
