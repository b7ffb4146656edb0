"""From a .gguf to the folder that transformers loads, converted once into the cache.

Tokenizer files come first and alone where only a tokenizer is asked for: counting must not pay for weights. Weights are
float32: dequantised Q4 values fit neither bfloat16 nor float16, and every other dtype is a cast of these.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from frspec_cli import storage
from frspec_cli.errors import FrspecError

CONVERTER_VERSION = 1
"""Part of the folder's name: a converter that writes other bytes gets another number, and old folders are left alone."""


def converted_folder(name: str, sha256: str) -> Path:
    """The cache folder of a converted model (it need not exist)."""
    return storage.cache_folder() / "models" / f"{name}-{sha256[:12]}-v{CONVERTER_VERSION}"


def tokenizer_folder(name: str, sha256: str) -> Path:
    """The cache folder that holds a model's tokenizer files alone (it need not exist)."""
    return storage.cache_folder() / "models" / f"{name}-{sha256[:12]}-v{CONVERTER_VERSION}-tokenizer"


def convert_tokenizer(gguf: Path, name: str, sha256: str) -> Path:
    """The folder with the tokenizer files of `gguf`, made on first use."""
    folder = tokenizer_folder(name, sha256)
    if not folder.is_dir():
        from transformers import AutoTokenizer

        with _reading(gguf) as (parent, file), storage.atomic_folder(folder) as temporary:
            AutoTokenizer.from_pretrained(parent, gguf_file=file).save_pretrained(temporary)
    return folder


def convert_model(gguf: Path, name: str, sha256: str, *, say: Callable[[str], None]) -> Path:
    """The folder with tokenizer, config and float32 safetensors of `gguf`, made on first use (whole or not at all)."""
    folder = converted_folder(name, sha256)
    if not folder.is_dir():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        say(f"converting {gguf.name} to {folder} (once)")
        with _reading(gguf) as (parent, file), storage.atomic_folder(folder) as temporary:
            AutoTokenizer.from_pretrained(parent, gguf_file=file).save_pretrained(temporary)
            model = AutoModelForCausalLM.from_pretrained(
                parent, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
            )
            model.save_pretrained(temporary)
    return folder


def gguf_identity(gguf: Path) -> tuple[str, str]:
    """(name, sha256) under which a user's own .gguf is kept in the cache."""
    return re.sub(r"[^\w.-]", "-", gguf.stem), storage.sha256_file(gguf)


@contextlib.contextmanager
def _reading(gguf: Path) -> Iterator[tuple[str, str]]:
    """(folder, file name) for transformers' reader, its progress bars silenced, its errors made one sentence."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as devnull, contextlib.redirect_stderr(devnull):
            warnings.simplefilter("ignore")
            yield str(gguf.parent), gguf.name
    except (ValueError, KeyError, NotImplementedError, IndexError, UnicodeDecodeError, struct.error) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise FrspecError(f"{gguf} cannot be converted by transformers' GGUF reader: {reason}.") from error
    finally:
        if shown:
            logging.enable_progress_bar()
