"""The judge that shares nothing with what it judges: transformers' own attention, masks and cache, in a process of its own.

`scores` starts it; it loads the model from its folder as anyone would, imports nothing else of frspec, and reports what it
would have emitted at each position of some texts. Run as a module it is that process: JSON on stdin, JSON on stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frspec_cli.errors import FrspecError

ROWS = 256
"""Rows of a text that run in one pass: eager attention writes out all of their scores."""


def scores(
    folder: Path, texts: Sequence[tuple[Sequence[int], Sequence[int]]], *, dtype: str, device: str
) -> list[dict[str, list[Any]]]:
    """Of each text (prompt ids, emitted ids): `best`, the argmax before each emitted id, and its top-2 `margin`.

    Raises `FrspecError` if the process fails, with the last line that it said.
    """
    request = {
        "folder": str(folder),
        "dtype": dtype,
        "device": device,
        "texts": [[list(map(int, prompt)), list(map(int, emitted))] for prompt, emitted in texts],
    }
    ran = subprocess.run(
        [sys.executable, "-m", __name__], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        said = ran.stderr.strip().splitlines()
        reason = said[-1].rstrip(".") if said else f"it ended with exit code {ran.returncode}"
        raise FrspecError(f"transformers alone could not score the texts: {reason}.")
    return json.loads(ran.stdout)


def main() -> None:
    """Reads the request from stdin and writes the scores to stdout."""
    import torch
    from transformers import AutoModelForCausalLM

    request = json.load(sys.stdin)
    more = {"experts_implementation": "eager"} if request["dtype"] == "float64" else {}
    model = AutoModelForCausalLM.from_pretrained(
        request["folder"],
        dtype=getattr(torch, request["dtype"]),
        attn_implementation="eager",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        **more,
    )
    model.to(request["device"]).eval()
    json.dump([score(model, prompt, emitted) for prompt, emitted in request["texts"]], sys.stdout)


def score(model: Any, prompt: Sequence[int], emitted: Sequence[int]) -> dict[str, list[Any]]:
    """What the model would have emitted at each position, read in passes of `ROWS` ids with a cache of its own making."""
    import torch

    ids = torch.tensor([[*prompt, *emitted[:-1]]], device=model.device)
    first, cache = len(prompt) - 1, None
    best: list[int] = []
    margin: list[float] = []
    with torch.no_grad():
        for begin in range(0, ids.shape[1], ROWS):
            out = model(input_ids=ids[:, begin : begin + ROWS], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits = out.logits[0, max(0, first - begin) :]
            top = logits.float().topk(2) if logits.dtype.itemsize < 4 else logits.topk(2)
            best += top.indices[:, 0].tolist()
            margin += (top.values[:, 0] - top.values[:, 1]).tolist()
    return {"best": best, "margin": margin}


if __name__ == "__main__":
    main()
