"""Runs in SpecForge's environment: warm-starts a draft from the exported head that is named, and drafts two steps.

Given: taps [1, T, 3 H] and embeddings [2, 1, T, H] of the tokens of both steps. Made: logits and the map. Arguments: the
head, the config.json of the draft, and a folder for SpecForge's own `save_pretrained`.
"""

import sys

import torch
from safetensors.torch import load_file, save_file
from specforge.core.compact_teacher import validate_compact_teacher_config
from specforge.export.to_sglang import _serving_state
from specforge.modeling.auto import AutoDraftModel, AutoDraftModelConfig
from specforge.training.model_loading import warm_start_draft_model

given, made, head, config_file, again = sys.argv[1:]
config = AutoDraftModelConfig.from_file(config_file)
model = AutoDraftModel.from_config(config)
warm_start_draft_model(model, head, draft_config=config, strategy="eagle3", allow_missing_embedding=True)
validate_compact_teacher_config(draft_vocab_size=config.draft_vocab_size, vocab_size=config.vocab_size, t2d=model.t2d)
states, logits = load_file(given), []
model.float().eval()
with torch.no_grad():
    count = states["taps"].shape[1]
    mask = torch.full((count, count), torch.finfo(torch.float32).min).triu(1)[None, None]
    hidden, cached = model.project_hidden_states(states["taps"]), [[], []]
    for embeddings in states["embeddings"]:
        hidden = model.backbone(embeddings, hidden, cached, mask, torch.arange(count)[None], None)
        logits.append(model.compute_logits(hidden)[0])
save_file({"logits.0": logits[0], "logits.1": logits[1], "d2t": model.d2t.clone(), "t2d": model.t2d.clone()}, made)
kept = {name: tensor for name, tensor in model.state_dict().items() if "embed" not in name.lower()}
model.save_pretrained(again, state_dict=_serving_state(kept, {}))  # as its exporter for SGLang does
