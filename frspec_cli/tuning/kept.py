"""Where probes and tunes of this machine are kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from frspec_cli.storage import cache_folder


def kept(kind: str, key: Any) -> Path:
    """The file in frspec's cache for a key of plain JSON values."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "tuning" / f"{kind}-{digest}.json"
