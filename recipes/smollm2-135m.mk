# SmolLM2-135M-Instruct: embedded, runs anywhere. Give CORPUS and PROMPTS of your own: make head PROMPTS=prompts.jsonl
MODEL := smollm2-135m
K ?= 16384
CORPUS ?= $(WORK)/answers.jsonl
COUNT_OPTIONS ?=
PROMPTS ?= prompts.jsonl
COLLECT_OPTIONS ?= --max-new-tokens 160
TRAIN_OPTIONS ?=
