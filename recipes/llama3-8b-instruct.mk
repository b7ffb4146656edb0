# Llama-3-8B-Instruct with the published EAGLE head, as in the FR-Spec paper (hub, gated; a GPU)
# CORPUS is the paper's. To train a head of your own in place of the published one: make report DRAFT=
MODEL := meta-llama/Meta-Llama-3-8B-Instruct
DRAFT ?= yuhuili/EAGLE-LLaMA3-Instruct-8B
K ?= 32768
CORPUS ?= cerebras/SlimPajama-627B
COUNT_OPTIONS ?= --limit-documents 1000000
PROMPTS ?= data/examples/prompts.jsonl
COLLECT_OPTIONS ?= --max-new-tokens 512
TRAIN_OPTIONS ?= --device cuda
BENCH_OPTIONS ?= --methods ar,eagle,frspec --k 8192,16384,32768
