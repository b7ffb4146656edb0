"""What a draft head consists of: one frozen record for all layouts, read from and written to a config.json."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from frspec_cli.errors import FrspecError, not_one_of

Layout = Literal["eagle2", "eagle3", "fused", "mtp"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
_OLD_NAMES: dict[str, Layout] = {"frspec": "fused", "eagle": "eagle2"}

OWN_ARCHITECTURES: dict[str, Layout] = {"FrspecEagle": "fused", "FrspecMtp": "mtp"}
"""The `architectures` entries of the layouts that only frspec runs."""

LAYER = "layers.0."
"""The prefix of the one layer's tensors."""


def layout_named(name: str) -> Layout:
    """The layout that an option or a record names; old names are understood. Raises `UsageError` for others."""
    name = _OLD_NAMES.get(name, name)
    for layout in LAYOUTS:
        if name == layout:
            return layout
    raise not_one_of("layout", name, LAYOUTS)


def detect_layout(raw: dict[str, Any], names: Iterable[str]) -> Layout | None:
    """The layout of a checkpoint, from its config.json (`raw`) and its tensors' names; None if it is not a draft head."""
    own = own_layout(raw)
    if own is not None:
        return own
    ours = {tensor_name(name) for name in names}
    if "fc.weight" not in ours:
        return None
    return "eagle3" if LAYER + "hidden_norm.weight" in ours or "d2t" in ours else "eagle2"


def own_layout(raw: dict[str, Any]) -> Layout | None:
    """The layout that a config.json (`raw`) states in frspec's own words; None for another program's."""
    architectures = raw.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    return next((layout for name, layout in OWN_ARCHITECTURES.items() if name in names), None)


def tensor_name(name: str) -> str:
    """`EagleHead`'s name of another program's tensor: without `model.` (vLLM), `layers.0.` for `midlayer.` (EAGLE-3)."""
    name = name.removeprefix("model.")
    return LAYER + name.removeprefix("midlayer.") if name.startswith("midlayer.") else name


@dataclass(frozen=True)
class HeadConfig:
    """The draft's transformer layers (one, in most heads) and what comes before and after them.

    layout: "eagle2" (EAGLE-1/2: fc over embedding and feature, no norms before attention and the LM head), "eagle3"
        (fc over three taps, attention reads norm(embedding) beside norm(feature), own norm and LM head), "fused" (ours:
        EAGLE-2's fc with normalised inputs, pre-norm attention, final norm, taps fused with the last state; the target's
        LM head), or "mtp" (DeepSeek-V3's module, arXiv 2412.19437 section 2.2: "fused" without taps, which feeds its normed
        output back).
    draft_vocab_size: rows of the head's own LM head; None if it uses the target's.
    rope: transformers' `rope_parameters` (at least rope_theta and rope_type).
    taps: indices into the target's `hidden_states` (0 = embeddings) that features are made from, besides the last one.
    embedding_scale: the factor on the target's embeddings (Gemma: sqrt(H)).
    qk_norm: norms on queries and keys, as in Qwen3.
    norm_before_residual: the residual is the normed feature (EAGLE-3's relatives, as the next two).
    norm_output: the normed output is fed back (EAGLE-3.1).
    tap_norm: "joint": one norm over all taps; "each": one per tap.
    layers: after the first, they are plain layers of the Llama family.
    window: a row sees this many positions, its own included; None for all.
    target_hidden_size: of the target's states, if it is not the head's own.
    Raises `FrspecError` if the sizes do not fit together.
    """

    layout: Layout
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    draft_vocab_size: int | None = None
    rms_norm_eps: float = 1e-5
    rope: dict[str, Any] = field(default_factory=lambda: {"rope_theta": 10000.0, "rope_type": "default"})
    max_position_embeddings: int = 2048
    hidden_act: str = "silu"
    fc_bias: bool = False
    qkv_bias: bool = False
    taps: tuple[int, ...] = ()
    embedding_scale: float = 1.0
    o_bias: bool = False
    qk_norm: bool = False
    norm_before_residual: bool = False
    norm_output: bool = False
    tap_norm: Literal["none", "joint", "each"] = "none"
    layers: int = 1
    window: int | None = None
    target_hidden_size: int | None = None

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise FrspecError(
                f"a draft head needs num_attention_heads ({self.num_attention_heads}) to be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})."
            )
        if self.layout in ("eagle2", "mtp") and self.taps:
            kind = "EAGLE-1/2 head" if self.layout == "eagle2" else "MTP module"
            raise FrspecError(f"an {kind} reads the last hidden state only, so it can have no taps.")

    @property
    def feature_size(self) -> int:
        """The size of the target's states."""
        return self.target_hidden_size or self.hidden_size

    def to_json(self) -> dict[str, Any]:
        """The config.json of the layouts that only frspec runs."""
        fused = self.layout == "fused"
        features = {"fuse_input": "cat(last_hidden_state, tap_norms[i](hidden_states[taps[i]])...)"}
        return {
            "architectures": ["FrspecEagle" if fused else "FrspecMtp"],
            "model_type": "frspec_eagle" if fused else "frspec_mtp",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": 1,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": self.rope,
            "max_position_embeddings": self.max_position_embeddings,
            "hidden_act": self.hidden_act,
            "qkv_bias": self.qkv_bias,
            "frspec": {
                "taps": list(self.taps),
                "embedding_scale": self.embedding_scale,
                "fc_input": "cat(embedding_norm(embedding), feature_norm(feature))",
                **(features if fused else {}),
                "lm_head": "target",
            },
        }


def own_config(raw: dict[str, Any], *, where: str) -> HeadConfig:
    """The `HeadConfig` of a config.json in one of our layouts. Raises `ArtifactError` for the first field that does not fit."""
    from frspec_cli.heads.config_schema import OwnConfig  # pydantic is not loaded for `frspec --help`
    from frspec_cli.schema import check

    check(OwnConfig, raw, f"{where}/config.json")
    layout = own_layout(raw) or "fused"
    return HeadConfig(
        layout=layout,
        norm_output=layout == "mtp",
        **{name: raw[name] for name in _COPIED},
        rope=dict(raw["rope_parameters"]),
        taps=tuple(raw["frspec"]["taps"]),
        embedding_scale=float(raw["frspec"]["embedding_scale"]),
    )


_COPIED = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "rms_norm_eps",
    "max_position_embeddings",
    "hidden_act",
    "qkv_bias",
)


def head_config_for(
    target_config: Any,
    *,
    taps: tuple[int, ...] | None = None,
    layout: Layout = "fused",
    draft_vocab_size: int | None = None,
    qkv_bias: bool = False,
) -> HeadConfig:
    """The config of a new head for a target, with the target's sizes.

    taps: default (2, n // 2, n - 3) of the target's n layers (EAGLE-3's choice), fewer in our layout if the target is
        shallow; EAGLE-2 and MTP have none.
    draft_vocab_size: rows of an EAGLE-3 head's LM head.
    qkv_bias: whether the target's own layers have biases on q, k and v.
    """
    n = target_config.num_hidden_layers
    if taps is None:
        default = (2, n // 2, n - 3)
        ours = tuple(sorted({index for index in default if 0 < index < n}))
        taps = {"fused": ours, "eagle3": default}.get(layout, ())
    heads = target_config.num_attention_heads
    head_dim = getattr(target_config, "head_dim", None) or target_config.hidden_size // heads
    return HeadConfig(
        layout=layout,
        hidden_size=target_config.hidden_size,
        intermediate_size=target_config.intermediate_size,
        num_attention_heads=heads,
        num_key_value_heads=getattr(target_config, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        vocab_size=target_config.vocab_size,
        draft_vocab_size=draft_vocab_size,
        rms_norm_eps=float(getattr(target_config, "rms_norm_eps", None) or 1e-5),
        rope=rope_of(target_config),
        max_position_embeddings=target_config.max_position_embeddings,
        hidden_act=str(
            getattr(target_config, "hidden_act", None) or getattr(target_config, "hidden_activation", "silu")
        ),
        qkv_bias=qkv_bias,
        taps=taps,
        norm_output=layout == "mtp",
        # EAGLE's layouts have no place for it: fc, or the norm of the embedding, takes it in.
        embedding_scale=embedding_scale_of(target_config) if layout in ("fused", "mtp") else 1.0,
    )


def rope_of(target_config: Any) -> dict[str, Any]:
    """The target's rotary parameters; for a model with several layer types, those of its full attention."""
    rope = dict(getattr(target_config, "rope_parameters", None) or {"rope_theta": 10000.0, "rope_type": "default"})
    if "full_attention" in rope:
        rope = dict(rope["full_attention"])
    return rope


def embedding_scale_of(target_config: Any) -> float:
    """The target's factor on token embeddings before the first layer (1 for most families)."""
    if target_config.model_type.startswith("gemma"):
        return float(target_config.hidden_size) ** 0.5
    return float(getattr(target_config, "embedding_multiplier", 1.0))
