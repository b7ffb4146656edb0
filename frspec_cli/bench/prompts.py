"""The prompts that measurements run on: see `corpus.prompts`, which `collect` reads too."""

from __future__ import annotations

from frspec_cli.corpus.prompts import Prompt, read_prompts

__all__ = ["Prompt", "read_prompts"]
