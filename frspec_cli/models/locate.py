"""What a model name means: an existing folder or .gguf, a short name, or `owner/name` on the model hub, in that order."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path

from frspec_cli.errors import FrspecError
from frspec_cli.models import convert
from frspec_cli.models.embedded import EMBEDDED, find_gguf

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TOKENIZER_FILES = ["tokenizer*.json", "config.json", "generation_config.json", "*.jinja", "special_tokens_map.json"]
_MODEL_FILES = [*_TOKENIZER_FILES, "*.safetensors", "*.safetensors.index.json"]


def talk(text: str) -> None:
    """Says something on stderr: the default voice of what may take a while on first use."""
    print(text, file=sys.stderr, flush=True)


def locate_model(name: str, *, say: Callable[[str], None] = talk) -> Path:
    """The folder with config.json, safetensors and tokenizer that `name` means; fetches and converts on first use.

    Raises `FrspecError` when there is no such model, naming the nearest short names.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FrspecError(f"the folder {name} holds no config.json, so it is no model.")
        return path
    if path.is_file():
        if path.suffix != ".gguf":
            raise FrspecError(f"{name} is a file but no .gguf.", hint="Name the model's folder, or a .gguf file.")
        return convert.convert_model(path, *convert.gguf_identity(path), say=say)
    if name in EMBEDDED:
        model = EMBEDDED[name]
        folder = convert.converted_folder(name, model.sha256)
        if not folder.is_dir():
            convert.convert_model(find_gguf(model, say=say), name, model.sha256, say=say)
            model.gguf_path().unlink(missing_ok=True)  # all that was in it is in the folder now
        return folder
    return _from_hub(name, _MODEL_FILES)


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
        file = convert.convert_tokenizer(path, *convert.gguf_identity(path)) / "tokenizer.json"
    elif name in EMBEDDED:
        file = _embedded_tokenizer_folder(name, say=say) / "tokenizer.json"
    else:
        file = _from_hub(name, _TOKENIZER_FILES) / "tokenizer.json"
    if not file.is_file():
        raise FrspecError(
            f"{name} holds no tokenizer.json.", hint="frspec reads fast tokenizers only: save one with save_pretrained."
        )
    return file


def _embedded_tokenizer_folder(name: str, *, say: Callable[[str], None]) -> Path:
    model = EMBEDDED[name]
    for folder in (convert.converted_folder(name, model.sha256), convert.tokenizer_folder(name, model.sha256)):
        if folder.is_dir():
            return folder
    return convert.convert_tokenizer(find_gguf(model, say=say), name, model.sha256)


def _from_hub(name: str, patterns: list[str]) -> Path:
    if not _HUB_ID.fullmatch(name):
        near = difflib.get_close_matches(name, EMBEDDED, n=2, cutoff=0.4) or sorted(EMBEDDED)
        raise FrspecError(
            f"there is no model named {name!r}: no such folder or .gguf file, and no short name.",
            hint=f"Did you mean {' or '.join(near)}? Models on the hub are named owner/name.",
        )
    return download_snapshot(name, patterns)


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
                f"{repository} is not in the local hub cache, and HF_HUB_OFFLINE=1 forbids asking."
            ) from None
        raise FrspecError(
            f"the model hub could not be reached to get {repository}.",
            hint=f"Name a local folder or a short name ({', '.join(EMBEDDED)}); HF_HUB_OFFLINE=1 skips the waiting.",
        ) from None
    except HfHubHTTPError as error:
        raise FrspecError(f"the model hub refused {repository}: {str(error).splitlines()[0]}") from None
