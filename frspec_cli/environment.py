"""The machine and the versions that a measurement was made with."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "safetensors", "numpy", "pyarrow", "gguf", "gigatoken")


def environment() -> dict[str, Any]:
    """Versions, processor, threads and devices, as plain JSON values."""
    import torch

    from frspec_cli import __version__
    from frspec_cli.storage import cache_folder

    return {
        "frspec": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **{name: _version(name) for name in _PACKAGES},
        "cache": str(cache_folder()),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
