"""Resolves a model name: an existing folder or .gguf, a short name, or `owner/name` on the model hub, in that order."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path

from frspec_cli.errors import FrspecError, did_you_mean
from frspec_cli.models import convert
from frspec_cli.models.embedded import EMBEDDED, find_gguf

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""`owner/name`, as models, heads and datasets on the hub are named."""

_TOKENIZER_FILES = ["tokenizer*.json", "config.json", "generation_config.json", "*.jinja", "special_tokens_map.json"]
_MODEL_FILES = [*_TOKENIZER_FILES, "*.safetensors", "*.safetensors.index.json"]


def talk(text: str) -> None:
    """Prints on stderr: the default of functions that may take a while on first use."""
    print(text, file=sys.stderr, flush=True)


def locate_model(name: str, *, say: Callable[[str], None] = talk) -> Path:
    """The folder with config.json, safetensors and tokenizer that `name` means; downloads and converts on first use.

    Raises `FrspecError` if there is no such model, naming the nearest short names.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FrspecError(f"the folder {name} holds no config.json, so it is not a model.")
        _check_weight_index(path)
        return path
    if path.is_file():
        if path.suffix != ".gguf":
            raise FrspecError(f"{name} is a file but not a .gguf.", hint="Name the model's folder, or a .gguf file.")
        return convert.convert_model(lambda: path, *convert.gguf_identity(path), say=say)
    if name in EMBEDDED:
        model = EMBEDDED[name]
        folder = convert.convert_model(functools.partial(find_gguf, model, say=say), name, model.sha256, say=say)
        if model.gguf_path().is_file():
            model.gguf_path().unlink(missing_ok=True)  # the folder holds everything that was in it
        return folder
    folder = _from_hub(name, _MODEL_FILES)
    _check_weight_index(folder)
    return folder


def _check_weight_index(folder: Path) -> None:
    """Raises `FrspecError` if the index of a model's weights names anything but files in its own folder."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        from frspec_cli.models.weight_files import read_index  # pydantic is not loaded for `frspec --help`

        read_index(index)


def plain_name(model: str) -> str:
    """A model's name for a published file: the last part of a local path (the folders around it mean nothing elsewhere)."""
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model


def resolvable_name(model: str, folder: Path) -> str:
    """A name under which any program finds the model: its hub id, or the absolute path of its `folder`.

    Short names mean something to frspec only, and relative paths in one folder only.
    """
    if HUB_ID.fullmatch(model) and model not in EMBEDDED and not Path(model).expanduser().exists():
        return model
    return str(folder.resolve())


def serving_name(reference: str) -> str:
    """What another program can open for the model whose tokenizer is `reference`: a folder, a hub id, or TARGET if unknown.

    Downloads and converts nothing: a short name means the folder of a model that is converted already.
    """
    path = Path(reference).expanduser()
    if path.suffix == ".json" and path.is_file():
        path = path.parent
    if path.is_dir():
        return str(path.resolve()) if (path / "config.json").is_file() else "TARGET"
    if reference in EMBEDDED:
        path = convert.converted_folder(reference, EMBEDDED[reference].sha256)
        return str(path) if path.is_dir() else "TARGET"
    return reference if HUB_ID.fullmatch(reference) else "TARGET"


def locate_tokenizer(name: str, *, say: Callable[[str], None] = talk) -> Path:
    """The tokenizer.json that `name` means: a model as in `locate_model`, a folder that holds one, or the file itself."""
    path = Path(name).expanduser()
    if path.is_dir():
        file = path / "tokenizer.json"
    elif path.is_file() and path.suffix == ".json":
        file = path
    elif path.is_file():
        if path.suffix != ".gguf":
            raise FrspecError(f"{name} is neither a tokenizer.json nor a .gguf.")
        file = convert.convert_tokenizer(lambda: path, *convert.gguf_identity(path), say=say) / "tokenizer.json"
    elif name in EMBEDDED:
        model = EMBEDDED[name]
        find = functools.partial(find_gguf, model, say=say)
        file = convert.convert_tokenizer(find, name, model.sha256, say=say) / "tokenizer.json"
    else:
        file = _from_hub(name, _TOKENIZER_FILES) / "tokenizer.json"
    if not file.is_file():
        raise FrspecError(
            f"{name} holds no tokenizer.json.", hint="frspec reads fast tokenizers only: save one with save_pretrained."
        )
    return file


def _from_hub(name: str, patterns: list[str]) -> Path:
    if not HUB_ID.fullmatch(name):
        near = did_you_mean(name, [*EMBEDDED, *_models_beside(Path(name))])
        near = near or f"Short names: {', '.join(EMBEDDED)}."
        raise FrspecError(
            f"there is no model named {name!r}: it is not a folder, a .gguf file, or a short name.",
            hint=f"{near} Models on the hub are named owner/name.",
        )
    return download_snapshot(name, patterns)


def _models_beside(path: Path) -> list[str]:
    """The models and tokenizers in the folder where `path` was looked for, as the user would name them."""
    folder = path.expanduser().parent
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    marks = ("config.json", "tokenizer.json")
    models = [each for each in found if each.suffix == ".gguf" or any((each / mark).is_file() for mark in marks)]
    return [str(path.with_name(each.name)) for each in models]


def download_snapshot(repository: str, patterns: list[str]) -> Path:
    """The local snapshot of a hub repository's files that match `patterns`. Raises `FrspecError` in one sentence."""
    import logging

    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    for logger in ("huggingface_hub", "httpx", "httpx2"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except RepositoryNotFoundError:
        raise FrspecError(
            f"the model hub has no public repository {repository}.",
            hint="If it is gated, accept its terms on the hub and log in with `hf auth login`.",
        ) from None
    except LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            raise FrspecError(
                f"{repository} is not in the local hub cache, and HF_HUB_OFFLINE=1 forbids downloading it."
            ) from None
        raise FrspecError(
            f"the model hub could not be reached to download {repository}.",
            hint=f"Name a local folder or a short name ({', '.join(EMBEDDED)}); set HF_HUB_OFFLINE=1 to fail at once.",
        ) from None
    except HfHubHTTPError as error:
        raise FrspecError(f"the model hub refused access to {repository}: {str(error).splitlines()[0]}") from None
