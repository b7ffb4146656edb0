# Llama-3.2-1B-Instruct: small beside its vocabulary of 128,256, where the paper gains most (hub, gated; a GPU helps)
MODEL := meta-llama/Llama-3.2-1B-Instruct
K ?= 16384
CORPUS ?= $(WORK)/answers.jsonl
COUNT_OPTIONS ?= --assistant-only
BUILD_OPTIONS ?= --pad
PROMPTS ?= data/examples/prompts.jsonl
COLLECT_OPTIONS ?= --max-new-tokens 256
TRAIN_OPTIONS ?=
