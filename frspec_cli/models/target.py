"""The target: the model whose output distribution is kept, with its tokenizer, end-of-sequence ids and LM head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frspec_cli.errors import FrspecError, UsageError, not_one_of, option
from frspec_cli.models.config_schema import check_text_config
from frspec_cli.models.eos import eos_ids
from frspec_cli.models.lm_head import LmHead, lm_head_of
from frspec_cli.models.locate import locate_model
from frspec_cli.schema import read_object

if TYPE_CHECKING:
    import torch

DTYPES = ("bfloat16", "float16", "float32", "float64")
_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}
_HYBRID_LAYERS = _ATTENTION_LAYERS | {"linear_attention"}


@dataclass(frozen=True)
class Target:
    """A loaded causal LM.

    name: as the user gave it.
    folder: with its config, weights and tokenizer.
    model: the transformers model, in eval mode, without gradients.
    processor: the transformers tokenizer (chat template, streaming text); ids for counting come from tokens/ instead.
    """

    name: str
    folder: Path
    model: Any
    processor: Any

    @property
    def config(self) -> Any:
        """The text model's configuration."""
        return self.model.config.get_text_config()

    @property
    def device(self) -> torch.device:
        """The weights' device."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return self.model.dtype

    @cached_property
    def lm_head(self) -> LmHead:
        """The LM head over the whole vocabulary, for drafts."""
        return lm_head_of(self.model)

    @property
    def embedding(self) -> torch.Tensor:
        """The input embedding's weight, [rows, H]."""
        return self.model.get_input_embeddings().weight.detach()

    @property
    def rows(self) -> int:
        """Rows of the embedding: ids at or above this do not exist for the model."""
        return self.embedding.shape[0]

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that ends a text: generation config, config and tokenizer, sorted."""
        declared = eos_ids(
            self.model.generation_config.to_dict(), self.model.config.to_dict(), self.processor.eos_token_id
        )
        return tuple(index for index in declared if index < self.rows)

    @property
    def is_chat(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self.processor.chat_template)

    def prompt_ids(self, prompt: str, *, raw: bool = False) -> list[int]:
        """Token ids of a user's prompt: through the chat template, or (`raw`, or a base model) as plain text.

        A template that writes BOS itself does not get a second one; plain text gets what the tokenizer adds by itself.
        Raises `UsageError` if the prompt is not valid Unicode, `FrspecError` if the template refuses it.
        """
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the prompt is not valid Unicode: character {error.start + 1} is a lone surrogate "
                f"(U+{ord(prompt[error.start]):04X}).",
                hint="Give it as UTF-8.",
            ) from None
        if raw or not self.is_chat:
            return list(self.processor(prompt)["input_ids"])
        return self.chat_ids([{"role": "user", "content": prompt}])

    def chat_ids(
        self, messages: Sequence[dict[str, str]], *, generate: bool = True, arguments: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a conversation that the assistant is to continue.

        generate: end it with the template's generation prompt.
        arguments: values for the chat template, such as enable_thinking.

        Raises `FrspecError` if the chat template refuses it, fails, or takes too long.
        """
        from frspec_cli.models.chat_rendering import render

        try:
            source = self.processor.get_chat_template()
        except ValueError:
            raise FrspecError(f"{self.name} has several chat templates, and none of them is the default.") from None
        variables = {**self.processor.special_tokens_map, **(arguments or {})}
        text = render(source, messages, generate=generate, variables=variables)
        return list(self.processor(text, add_special_tokens=False)["input_ids"])


def load_target(
    name: str,
    *,
    device: str | None = None,
    dtype: str = "bfloat16",
    attention: str | None = None,
    hybrid: bool = False,
) -> Target:
    """Loads what `name` means (see `locate_model`) onto `device` (default: CUDA if there is one) in `dtype`.

    hybrid: linear attention will do as well, for what runs the model plainly: no tree can be rolled back there.

    The weights go straight there, to that one device; a CUDA device becomes the current one, whose stream all else uses.
    Raises `FrspecError` for a model that frspec cannot decode: not a causal LM, or with layers that are not attention; and if
    it does not fit on the device.
    """
    placed = resolve_device(device)
    folder = locate_model(name)
    config = read_model_config(name, folder)
    _refuse_family(name, config, hybrid=hybrid)
    check_text_config(config, folder / "config.json")
    model, processor = _read_model(name, folder, config, placed=placed, dtype=dtype, attention=attention)
    model.requires_grad_(False).eval()
    return Target(name=name, folder=folder, model=model, processor=processor)


def _read_model(
    name: str, folder: Path, config: Any, *, placed: torch.device, dtype: str, attention: str | None
) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # The grouped product that mixtures of experts use by default knows no float64.
    experts = {"experts_implementation": "eager"} if dtype == "float64" else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=resolve_dtype(dtype),
            attn_implementation=attention or "sdpa",
            device_map={"": placed},
            use_safetensors=True,
            trust_remote_code=False,
            **experts,
        )
        return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except FrspecError:
        raise
    except torch.OutOfMemoryError as error:
        hint = f"Try {option('dtype')} bfloat16, or another {option('device')}."
        raise FrspecError(f"{name} does not fit on {placed}: {_first_line(error)}.", hint=hint) from error
    except Exception as error:  # as in `read_model_config`
        raise FrspecError(f"{name} could not be loaded: {_reason(error)}.") from error


def read_model_config(name: str, folder: Path) -> Any:
    """The config of the model `name` in `folder`. Raises `FrspecError` if transformers cannot use it."""
    from transformers import AutoConfig

    read_object(folder / "config.json")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # its checks raise whatever they come across: KeyError, ZeroDivisionError, their own
        raise FrspecError(f"{name} has a config.json that transformers cannot use: {_reason(error)}.") from error


def is_hybrid(config: Any) -> bool:
    """Whether a text config has layers of attention and of linear attention, whose state cannot be rolled back."""
    kinds = set(getattr(config, "layer_types", None) or [])
    return "linear_attention" in kinds and bool(kinds & _ATTENTION_LAYERS)


def _refuse_family(name: str, config: Any, *, hybrid: bool) -> None:
    """Raises `FrspecError` for what its config shows to be impossible, before any weights are read."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    text = config.get_text_config()
    hybrid = hybrid and is_hybrid(text)
    others = sorted(set(getattr(text, "layer_types", None) or []) - (_HYBRID_LAYERS if hybrid else _ATTENTION_LAYERS))
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if others:
        reason = f"has {others[0]} layers: frspec decodes only models whose layers are full or sliding attention"
    elif getattr(text, "is_encoder_decoder", False) or model_class is None or _is_encoder(text):
        reason = f"is of the family {text.model_type}, which is not a decoder-only language model"
    elif getattr(model_class, "_is_stateful", False) and not hybrid:
        reason = f"is of the family {text.model_type}, which has recurrent layers: frspec decodes only attention"
    elif getattr(text, "kv_lora_rank", None) is not None:
        reason = f"is of the family {text.model_type}, whose latent attention (MLA) frspec's cache cannot hold"
    elif not getattr(model_class, "_supports_sdpa", True):
        reason = f"is of the family {text.model_type}, whose attention has sinks or something else that frspec's lacks"
    else:
        return
    raise FrspecError(f"{name} {reason}.", hint="Its tokens can still be counted, and subsets built and exported.")


def _is_encoder(text: Any) -> bool:
    """Whether a family that may be either is an encoder here (BERT). GPT-NeoX has the field too, without a meaning."""
    return getattr(text, "is_decoder", True) is False and not text.model_type.startswith("gpt_neox")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")


def _reason(error: Exception) -> str:
    """Another library's error as part of a sentence: its first lines, and its name if they may not say enough."""
    said = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
    said = said if len(said) <= 300 else f"{said[:300]}..."
    if isinstance(error, (OSError, ValueError)) and said:
        return _first_line(error)
    return f"{type(error).__name__}: {said}".rstrip(": .")


def resolve_device(device: str | None) -> torch.device:
    """The device that an option names; None means CUDA if there is one, else the CPU. A numbered one becomes the current one:
    events and streams are those of the current device.

    Raises `UsageError` if torch knows no such device, `FrspecError` if there is no such CUDA device.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise UsageError(
            f"{option('device')} {device} is not a device that torch knows; try cpu, cuda or cuda:0."
        ) from None
    if parsed.type == "cuda" and not torch.cuda.is_available():
        raise FrspecError(f"{option('device')} {device}: this machine, or this build of torch, has no CUDA device.")
    if parsed.type == "cuda" and parsed.index is not None:
        if parsed.index >= torch.cuda.device_count():
            raise FrspecError(
                f"{option('device')} {device}: this machine has {torch.cuda.device_count()} CUDA devices."
            )
        torch.cuda.set_device(parsed)
    return parsed


def resolve_dtype(dtype: str) -> torch.dtype:
    """The torch dtype that an option names. Raises `UsageError` for one that is not in `DTYPES`."""
    import torch

    if dtype not in DTYPES:
        raise not_one_of("dtype", dtype, DTYPES)
    return getattr(torch, dtype)
