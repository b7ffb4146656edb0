# Gemma 3 270M (base): embedded, runs anywhere; under the Gemma Terms of Use, and so are its answers and heads
# A base model goes on with plain text: PROMPTS is a file of {"id", "text"} records.
MODEL := gemma3-270m
K ?= 16384
CORPUS ?= $(WORK)/answers.jsonl
COUNT_OPTIONS ?= --assistant-only
BUILD_OPTIONS ?= --pad
PROMPTS ?= texts.jsonl
COLLECT_OPTIONS ?= --max-new-tokens 128 --max-prompt-tokens 64
TRAIN_OPTIONS ?=
