"""Runs in speculators' environment: its maps from an exported token_freq.pt, and whether a head takes an exported pair.

Arguments: token_freq.pt, the folder with d2t.npy and t2d.npy, D, V. Made: d2t and t2d of both.
"""

import sys
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save_file
from speculators.model import DraftVocabMixin
from speculators.train.vocab_mapping import build_vocab_mappings_from_distribution

_, made, token_freq, folder, rows, vocabulary = sys.argv[1:]
counts = torch.load(token_freq, weights_only=True)
d2t, t2d = build_vocab_mappings_from_distribution(counts, int(rows), int(vocabulary))
pair = {name: torch.from_numpy(np.load(f"{folder}/{name}.npy")) for name in ("d2t", "t2d")}
taken = {}
head = SimpleNamespace(
    use_draft_vocab=True,
    verifier_vocab_size=int(vocabulary),
    draft_vocab_size=int(rows),
    load_state_dict=lambda state, strict: taken.update(state),
)
DraftVocabMixin.load_vocab_mappings(head, pair["t2d"], pair["d2t"])  # raises for a pair that does not fit
save_file({"built.d2t": d2t, "built.t2d": t2d, "taken.d2t": taken["d2t"], "taken.t2d": taken["t2d"]}, made)
