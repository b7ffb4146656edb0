"""Runs in SpecForge's environment: its map from counts, and whether a draft takes an exported eagle3 map.

Given: ids and counts int64 [n]. Arguments: the exported map, D, V. Made: d2t and t2d of both.
"""

import sys
from collections import Counter

import torch
from safetensors.torch import load_file, save_file
from specforge.data.preprocessing import process_token_dict_to_mappings
from specforge.modeling.draft.base import Eagle3DraftModel

given, made, exported, rows, vocabulary = sys.argv[1:]
tensors = load_file(given)
counts = Counter(dict(zip(tensors["ids"].tolist(), tensors["counts"].tolist(), strict=True)))
d2t, t2d = process_token_dict_to_mappings(counts, int(rows), int(vocabulary))


class Draft:
    d2t = torch.zeros(int(rows), dtype=torch.int64)
    t2d = torch.zeros(int(vocabulary), dtype=torch.bool)


draft = Draft()
Eagle3DraftModel.load_vocab_mapping(draft, exported)
save_file({"built.d2t": d2t, "built.t2d": t2d, "taken.d2t": draft.d2t, "taken.t2d": draft.t2d}, made)
