# SmolLM2-135M-Instruct: embedded, runs anywhere. Give PROMPTS of your own: make head PROMPTS=prompts.jsonl
# The subset is counted on the model's own answers, the best corpus there is; name another with CORPUS=... COUNT_OPTIONS=
MODEL := smollm2-135m
K ?= 4096
CORPUS ?= $(WORK)/answers.jsonl
COUNT_OPTIONS ?= --assistant-only
PROMPTS ?= prompts.jsonl
COLLECT_OPTIONS ?= --max-new-tokens 160
TRAIN_OPTIONS ?=
