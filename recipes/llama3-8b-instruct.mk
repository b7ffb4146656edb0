# Llama-3-8B-Instruct on SlimPajama, as in the FR-Spec paper (needs the hub; the model is gated; the head wants a GPU).
MODEL := meta-llama/Meta-Llama-3-8B-Instruct
K ?= 32768
CORPUS ?= cerebras/SlimPajama-627B
COUNT_OPTIONS ?= --limit-documents 1000000
PROMPTS ?= prompts.jsonl
COLLECT_OPTIONS ?= --max-new-tokens 512
TRAIN_OPTIONS ?= --device cuda
