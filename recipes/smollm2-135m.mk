# SmolLM2-135M-Instruct: embedded, runs anywhere, in minutes with these twenty prompts (PROMPTS=... for yours)
# The subset is counted on the model's own answers, the best corpus there is; CORPUS=... COUNT_OPTIONS= for another.
MODEL := smollm2-135m
K ?= 4096
CORPUS ?= $(WORK)/answers.jsonl
COUNT_OPTIONS ?= --assistant-only
BUILD_OPTIONS ?= --pad
PROMPTS ?= data/examples/prompts.jsonl
COLLECT_OPTIONS ?= --max-new-tokens 160
TRAIN_OPTIONS ?=
