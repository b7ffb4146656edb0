"""From a .gguf to the folder that transformers loads, converted once into the cache.

If only a tokenizer is asked for, only its files are converted: counting must not pay for weights. Weights are float32:
dequantised Q4 values fit neither bfloat16 nor float16, and every other dtype is a cast of these. Of several processes that
need the same model, one converts and the others wait for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from frspec_cli import storage
from frspec_cli.errors import FrspecError
from frspec_cli.models.gguf_header import check_gguf

CONVERTER_VERSION = 1
"""Part of the folder's name: a converter that writes other bytes has another number, and old folders are left alone."""


def converted_folder(name: str, sha256: str) -> Path:
    """The cache folder of a converted model (which need not exist)."""
    return storage.cache_folder() / "models" / f"{name}-{sha256[:12]}-v{CONVERTER_VERSION}"


def tokenizer_folder(name: str, sha256: str) -> Path:
    """The cache folder for only the tokenizer files of a model (which need not exist)."""
    return storage.cache_folder() / "models" / f"{name}-{sha256[:12]}-v{CONVERTER_VERSION}-tokenizer"


def convert_tokenizer(find: Callable[[], Path], name: str, sha256: str, *, say: Callable[[str], None]) -> Path:
    """The folder with the tokenizer files of the .gguf that `find` returns, or of its model if that is converted already.

    find: called at most once, and only if there is no folder yet.
    """
    model, folder = converted_folder(name, sha256), tokenizer_folder(name, sha256)
    if not model.is_dir() and not folder.is_dir():
        with _converting(name, sha256, say):
            if not model.is_dir() and not folder.is_dir():
                _write_tokenizer(find(), folder)
    return model if model.is_dir() else folder


def convert_model(find: Callable[[], Path], name: str, sha256: str, *, say: Callable[[str], None]) -> Path:
    """The folder with tokenizer, config and float32 safetensors of the .gguf that `find` returns, whole or not at all.

    find: called at most once, and only if there is no folder yet.
    """
    folder = converted_folder(name, sha256)
    if not folder.is_dir():
        with _converting(name, sha256, say):
            if not folder.is_dir():
                gguf = find()
                say(f"converting {gguf.name} to {folder} (once)")
                _write_model(gguf, folder)
    return folder


@contextlib.contextmanager
def _converting(name: str, sha256: str, say: Callable[[str], None]) -> Iterator[None]:
    """Lets one process at a time convert the model, and removes what a killed one left half-written."""
    folder = converted_folder(name, sha256)
    with storage.exclusive(folder.name, waiting=lambda: say(f"another process is converting {name}: waiting for it")):
        for leftover in folder.parent.glob(f".{folder.name}*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _write_tokenizer(gguf: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    with _reading(gguf) as (parent, file), storage.atomic_folder(folder, keep_existing=True) as temporary:
        AutoTokenizer.from_pretrained(parent, gguf_file=file).save_pretrained(temporary)


def _write_model(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from frspec_cli.tensor_files import disk_errors

    with _reading(gguf) as (parent, file), storage.atomic_folder(folder, keep_existing=True) as temporary:
        AutoTokenizer.from_pretrained(parent, gguf_file=file).save_pretrained(temporary)
        model = AutoModelForCausalLM.from_pretrained(
            parent, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        with disk_errors():
            model.save_pretrained(temporary)


def gguf_identity(gguf: Path) -> tuple[str, str]:
    """(name, sha256) under which a user's own .gguf is cached."""
    return re.sub(r"[^\w.-]", "-", gguf.stem), storage.sha256_file(gguf)


@contextlib.contextmanager
def _reading(gguf: Path) -> Iterator[tuple[str, str]]:
    """(folder, file name) for transformers' reader, without its progress bars and with its errors as one sentence."""
    from transformers.utils import logging

    check_gguf(gguf)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with (
            warnings.catch_warnings(),
            open(os.devnull, "w", encoding="utf-8") as devnull,
            contextlib.redirect_stderr(devnull),
        ):
            warnings.simplefilter("ignore")
            yield str(gguf.parent), gguf.name
    except (FrspecError, OSError):
        raise
    except Exception as error:  # it raises whatever its arithmetic does
        reason = (str(error) or type(error).__name__).split("\n")[0].rstrip(".")
        raise FrspecError(f"{gguf} cannot be converted by transformers' GGUF reader: {reason}.") from error
    finally:
        if shown:
            logging.enable_progress_bar()
