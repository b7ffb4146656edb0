"""What the config.json of a draft head must hold: our own layout's, and the keys that are read of other programs'."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from frspec_cli.schema import Rows, Schema

MOST_LAYERS = 1 << 12

_Size = Annotated[int, Field(ge=1, le=1 << 20)]
_Heads = Annotated[int, Field(ge=1, le=1 << 12)]
_HeadDim = Annotated[int, Field(ge=2, le=1 << 13, multiple_of=2)]
_Positions = Annotated[int, Field(ge=1, lt=1 << 31)]
_Epsilon = Annotated[float, Field(ge=0, le=1)]
_Above0 = Annotated[float, Field(gt=0, le=1e15)]
_Taps = Annotated[list[Annotated[int, Field(ge=0, le=MOST_LAYERS)]], Field(max_length=64)]


class Rope(Schema):
    """What every kind of rotary embedding has; `heads.layouts` checks a kind's own parameters by using them."""

    rope_theta: _Above0
    rope_type: str = "default"


class _Own(Schema):
    taps: _Taps
    embedding_scale: _Above0


class OwnConfig(Schema):
    """The config.json that `HeadConfig.to_json` writes."""

    hidden_size: _Size
    intermediate_size: _Size
    num_attention_heads: _Heads
    num_key_value_heads: _Heads
    head_dim: _HeadDim
    vocab_size: Rows
    rms_norm_eps: _Epsilon
    rope_parameters: Rope
    max_position_embeddings: _Positions
    hidden_act: str
    qkv_bias: bool
    frspec: _Own

    @model_validator(mode="after")
    def _whole_groups(self) -> OwnConfig:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads to be a multiple of num_key_value_heads")
        return self


class ForeignConfig(Schema):
    """The keys that are read of an EAGLE-1/2 or EAGLE-3 head's config.json; tensors say the rest."""

    num_attention_heads: _Heads | None = None
    vocab_size: Rows | None = None
    head_dim: _HeadDim | None = None
    rms_norm_eps: _Epsilon = 1e-6
    rope_theta: _Above0 | None = None
    rope_parameters: dict[str, Any] | None = None
    rope_scaling: dict[str, Any] | None = None
    max_position_embeddings: _Positions = 2048
    hidden_act: str = "silu"
    norm_before_residual: bool | None = None
    norm_output: bool | None = None
    eagle_aux_hidden_state_layer_ids: _Taps | None = None
    eagle_config: dict[str, Any] | None = None
    target_hidden_size: _Size | None = None
    draft_vocab_size: Rows | None = None
    layer_types: list[str] | None = None
    sliding_window: _Positions | None = None
