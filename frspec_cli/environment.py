"""The machine and the versions that a measurement was made with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "safetensors", "numpy", "pyarrow", "gguf", "gigatoken")
_FLAGS = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16",
    "amx_int8", "asimd", "asimdhp", "sve", "bf16", "svebf16", "i8mm",
)  # fmt: skip
"""The instructions that decide how fast products are in each dtype: the names of x86 processors, then of Arm's."""


def environment() -> dict[str, Any]:
    """Versions, the processor and what torch can use of it, threads, load and devices, as plain JSON values."""

    from frspec_cli import __version__
    from frspec_cli.storage import cache_folder

    return {
        "frspec": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **machine(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        **{name: _version(name) for name in _PACKAGES},
        "cache": str(cache_folder()),
    }


def machine() -> dict[str, Any]:
    """What the time of a step depends on, besides the model and the versions.

    cpu_flags: of the instructions that matter here, those that the processor has.
    cpu_capability: the vector instructions that torch's own CPU kernels use.
    cpu_bfloat16, cpu_float16: whether torch's CPU products in that dtype have instructions of their own; without them they
        are many times slower than in float32.
    cuda: the card's name, its compute capability and its memory in GiB; None without a card.
    """
    import torch

    card = torch.cuda.is_available()
    return {
        "processor": _cpuinfo("model name") or platform.processor() or "unknown",
        "cpu_flags": cpu_flags(_cpuinfo("flags") or _cpuinfo("Features") or ""),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_bfloat16": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "cpu_float16": bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if card else None,
        "cuda_capability": list(torch.cuda.get_device_capability()) if card else None,
        "cuda_memory": round(torch.cuda.get_device_properties().total_memory / 2**30, 1) if card else None,
    }


def cpu_flags(listed: str) -> list[str]:
    """Of a processor's flags, separated by spaces, those that matter here."""
    there = set(listed.split())
    return [name for name in _FLAGS if name in there]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpuinfo(field: str) -> str | None:
    """The first value of a field of /proc/cpuinfo; None if there is no such file or field."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return None


def _commit() -> str | None:
    """The commit of the checkout that this package lies in, with `-dirty` behind it if files were changed; else None."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "-c", "core.abbrev=12", "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()
