# Qwen3-8B, vocabulary of 151,936: thoughts count as the chat template renders them (hub; a GPU)
MODEL := Qwen/Qwen3-8B
K ?= 32768
CORPUS ?= $(WORK)/answers.jsonl
COUNT_OPTIONS ?= --assistant-only
BUILD_OPTIONS ?= --script-budget cjk=8192 --pad
PROMPTS ?= data/examples/prompts.jsonl
COLLECT_OPTIONS ?= --max-new-tokens 512
TRAIN_OPTIONS ?= --device cuda
