"""Runs in speculators' environment: loads the exported head that is named as its own users do, and drafts two steps.

Given: taps [1, T, 3 H] and tokens int64 [1, T] (those after each state). Made: the embedding and the map as loaded, and the
logits of both steps; with a folder as fourth argument, the head is also saved there by its own `save_pretrained`.
"""

import sys

import torch
from safetensors.torch import load_file, save_file
from speculators import SpeculatorModel, SpeculatorModelConfig

given, made, head, *again = sys.argv[1:]
config = SpeculatorModelConfig.from_pretrained(head)
config.transformer_layer_config._attn_implementation = "eager"
model = SpeculatorModel.from_pretrained(head, config=config).float().eval()
logits = []
model.lm_head.register_forward_hook(lambda module, inputs, output: logits.append(output[0]))
states = load_file(given)
with torch.no_grad():
    model(states["taps"], states["tokens"], document_ids=torch.zeros_like(states["tokens"]), ttt_steps=2)
tensors = {"embedding": model.embed_tokens.weight.data, "logits.0": logits[0], "logits.1": logits[1]}
tensors |= {name: getattr(model, name) for name in ("d2t", "t2d") if getattr(model, name, None) is not None}
save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, made)
if again:
    model.save_pretrained(again[0])
