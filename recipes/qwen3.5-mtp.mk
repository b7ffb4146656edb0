# Qwen3.5 with its own MTP module (linear attention): make report replays chains, what engines draft with (hub; a GPU)
# Nothing is trained, and nothing decoded: its layers are not all attention, so frspec replays it only.
MODEL ?= Qwen/Qwen3.5-9B
DRAFT := mtp
K ?= 32768
CORPUS ?= $(WORK)/answers.jsonl
COUNT_OPTIONS ?= --assistant-only
BUILD_OPTIONS ?= --multiple-of 128 --pad
PROMPTS ?= data/examples/prompts.jsonl
COLLECT_OPTIONS ?= --max-new-tokens 512
REPLAY_OPTIONS ?= --tree 3,1,4 --curve
RESULTS ?= $(WORK)/replay.json
