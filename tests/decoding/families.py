"""The families of `tests.models.test_target` that the engine decodes: those without attention sinks."""

from __future__ import annotations

from typing import Any

from tests.models.test_target import FAMILIES as ALL

SINKS = ("GraniteSWA", "GraniteMoeSWA")
FAMILIES: dict[str, dict[str, Any]] = {name: changes for name, changes in ALL.items() if name not in SINKS}
SOFTCAPPED = ("Gemma2", "VaultGemma")
"""transformers caps their attention scores only in its eager attention, whose softmax is in float32."""
DENSE = [name for name in FAMILIES if "Moe" not in name]
"""Without mixtures of experts, whose own code in transformers reads on the host which experts to run."""
