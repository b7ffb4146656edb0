# Every target does all the set-up that it needs: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.frspec-ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-peers check package docs attack bench-count bench-cycle gpu-day clean tables \
	counts subset answers head replay tune bench report results study-subsets study-loss

# A recipe is a few variables (recipes/NAME.mk); the rules that use them stand below.
RECIPE ?= smollm2-135m
ifeq ($(wildcard recipes/$(RECIPE).mk),)
$(error no recipe $(RECIPE); there are: $(basename $(notdir $(wildcard recipes/*.mk))))
endif
include recipes/$(RECIPE).mk
WORK := out/$(RECIPE)

help: ## this list
	@sed -nE 's/^([a-z][a-z-]*):.*## (.*)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | \
		awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo
	@echo 'Recipes: what the model steps above work on, as in make report RECIPE=qwen3-8b'
	@for file in recipes/*.mk; do printf '  %-22s %s\n' "$$(basename $$file .mk)" "$$(sed -n '1s/^# //p' $$file)"; done

setup: $(READY) ## .venv with frspec in it

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'frspec needs Python >= 3.11; name one: make setup PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fast,plot,dev]'
	$(BIN)/frspec fetch smollm2-135m
	@touch $@

demo: setup ## plain decoding, EAGLE-2 and FR-Spec side by side on a real model
	$(BIN)/frspec demo --out out/demo

test: setup ## the quick tests
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 -m 'not slow'

test-slow: setup ## the slow tests, Ray included
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest -q -m slow --timeout 1800

# What frspec exports, loaded and run by peers' own packages, each in an environment of its own under .peers.
test-peers: setup ## what frspec exports, in the code of speculators and SpecForge
	$(BIN)/python -m tests.peers.environments .peers
	FRSPEC_PEERS=.peers $(BIN)/python -m pytest -q -rs tests/peers

check: setup ## lint, format, types, import rules, links of the docs, the wheel
	$(BIN)/ruff check frspec_cli benchmarks tests
	$(BIN)/ruff format --check frspec_cli benchmarks tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q tests/docs -m 'not slow and not real'
	$(MAKE) --no-print-directory package

# The wheel, installed as its users do into an environment of its own, and tried outside the checkout.
package: setup ## wheel and sdist, and a smoke test of the wheel in a clean environment
	$(BIN)/python -m tests.packaging.wheel out/package

docs: setup ## the site of docs/, in out/site
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

attack: setup ## kills, damaged files, pickles, hostile records and templates: what fails (10 minutes)
	$(BIN)/python -m benchmarks.attack $(ARGS)

bench-count: setup ## counting against the published loop
	$(BIN)/python -m benchmarks.counting $(ARGS)

# Needs one CUDA card and no download; ARGS='--shape tiny --device cpu' shows that it runs.
gpu-day: setup ## what a CUDA card makes of frspec, in nine minutes
	$(BIN)/python -m benchmarks.gpu_day --out out/gpu-day $(ARGS)

# Goes on where it was stopped. SUITE is Spec-Bench's question.jsonl or another file of prompts; ARGS=--untimed leaves out what
# has to be timed on a quiet machine.
results: setup ## data/results and RESULTS.md: every run of one model, beside the paper's figures (hours): MODEL=NAME SUITE=FILE
	@test -n '$(SUITE)' || { echo 'name the prompts: make results MODEL=$(MODEL) SUITE=question.jsonl' >&2; exit 1; }
	$(BIN)/python -m benchmarks.results --model $(MODEL) --suite $(SUITE) $(ARGS)

bench-cycle: setup ## one step of plain decoding, FR-Spec and transformers at three lengths of context
	$(BIN)/python -m benchmarks.step_time --out out/bench-cycle $(ARGS)

clean: ## remove out/
	rm -rf out

# One model from prompts to a page of results. Each step resumes where it was stopped; make decides what is out of date
# (hence --force). A recipe may name a head that others trained, or mtp, as DRAFT: then nothing is trained.
DRAFT ?= $(WORK)/head
HEAD := $(if $(filter $(WORK)/%,$(DRAFT)),$(DRAFT)/config.json)
RESULTS ?= $(WORK)/replay.json $(WORK)/bench.json
SUITE ?= $(PROMPTS)
DRAFTED := --model $(MODEL) --draft $(DRAFT) --vocab $(WORK)/subset.parquet

counts: $(WORK)/counts.parquet ## model step: text (CORPUS) to a frequency table
subset: $(WORK)/subset.parquet ## model step: the table to a subset of K tokens
answers: $(WORK)/answers.jsonl ## model step: the model answers PROMPTS
head: $(HEAD) ## model step: the answers to a draft head
replay: $(WORK)/replay.json ## model step: what head and subset accept of held-out answers
tune: $(WORK)/tune.json ## model step: the dtype, size and tree that this machine wants
bench: $(WORK)/bench.json ## model step: methods side by side, in time
report: $(WORK)/report.html ## model step: one page of all of it

$(WORK)/counts.parquet: $(filter $(WORK)/%,$(CORPUS)) | $(READY)
	$(BIN)/frspec count-freq $(CORPUS) --tokenizer $(MODEL) --out $@ --force $(COUNT_OPTIONS)

$(WORK)/subset.parquet: $(WORK)/counts.parquet
	$(BIN)/frspec build-vocab $< --model $(MODEL) --k $(K) --out $@ --force $(BUILD_OPTIONS)

$(WORK)/answers.jsonl: | $(READY)
	$(BIN)/frspec collect --prompts $(PROMPTS) --model $(MODEL) --out $@ $(COLLECT_OPTIONS)

$(WORK)/head/config.json: $(WORK)/answers.jsonl
	$(BIN)/frspec train-draft $< --model $(MODEL) --out $(@D) $(TRAIN_OPTIONS)

$(WORK)/replay.json: $(WORK)/answers.jsonl $(WORK)/subset.parquet $(HEAD)
	$(BIN)/frspec replay $< --held-out $(DRAFTED) --out $@ --force $(REPLAY_OPTIONS)

$(WORK)/tune.json: $(WORK)/answers.jsonl $(WORK)/subset.parquet $(HEAD)
	$(BIN)/frspec tune $< --held-out $(DRAFTED) --out $@ --restart $(TUNE_OPTIONS)

$(WORK)/bench.json: $(WORK)/tune.json
	$(BIN)/frspec bench --prompts $(SUITE) $(DRAFTED) --config $< --out $@ --force $(BENCH_OPTIONS)

$(WORK)/report.html: $(RESULTS)
	$(BIN)/frspec report $^ --out $@

# The tables of data/tables: KINDS and LANGUAGES are text as count-freq reads it (labelled by kind, and in meta.lang by
# language), TOKENIZERS a folder of folders, GPT_OSS the folder of gpt-oss's tokenizer, which must give GPT-4o's counts.
TABLES := out/tables
OF_SHORT_NAMES := llama3=llama3 qwen3=qwen3 gemma3=gemma3 deepseek-v3=deepseek_v3 gpt-4o=gpt4o
tables: $(foreach pair,$(OF_SHORT_NAMES),data/tables/$(firstword $(subst =, ,$(pair))).parquet)

define TABLE_RULES
$(TABLES)/$(1)-kinds.parquet: | $(READY)
	@test -n '$(KINDS)' -a -n '$(LANGUAGES)' -a -n '$(TOKENIZERS)' -a -n '$(GPT_OSS)' || \
		{ echo 'say what to count: make tables KINDS=... LANGUAGES=... TOKENIZERS=... GPT_OSS=...' >&2; exit 1; }
	$(BIN)/frspec count-freq $(KINDS) --tokenizer $(2) --out $$@
$(TABLES)/$(1)-languages.parquet: | $(READY)
	$(BIN)/frspec count-freq $(LANGUAGES) --tokenizer $(2) --source-field meta.lang --out $$@
endef
define SHIPPED_RULE
data/tables/$(1).parquet: $(TABLES)/$(1)-kinds.parquet $(TABLES)/$(1)-languages.parquet $(3)
	$(BIN)/python -m benchmarks.shipped_tables --name $(1) --tokenizer $(2) --kinds $$(word 1,$$^) --languages $$(word 2,$$^) \
		$(if $(3),--also gpt-oss $(GPT_OSS) $(3)) --out $$(@D)
endef
$(foreach pair,$(OF_SHORT_NAMES),$(eval $(call TABLE_RULES,$(firstword $(subst =, ,$(pair))),$(TOKENIZERS)/$(lastword $(subst =, ,$(pair))))))
$(eval $(call TABLE_RULES,gpt-oss,$(GPT_OSS)))
$(foreach pair,$(OF_SHORT_NAMES),$(eval $(call SHIPPED_RULE,$(firstword $(subst =, ,$(pair))),$(TOKENIZERS)/$(lastword $(subst =, ,$(pair))),$(if $(filter gpt-4o=%,$(pair)),$(TABLES)/gpt-oss-kinds.parquet $(TABLES)/gpt-oss-languages.parquet))))

# Which counts make the best subset? ANSWERS: recorded by collect; WEB: any text that count-freq reads. Resumes.
ANSWERS ?= $(WORK)/answers.jsonl
study-subsets: $(WORK)/web.parquet | $(READY) ## which counts make the best subset: WEB="files..." or the model's own answers
	$(BIN)/python -m benchmarks.subset_study --model $(MODEL) --answers $(ANSWERS) --web $< --out $(WORK)/study.json $(ARGS)

$(WORK)/web.parquet: | $(READY)
	@test -n '$(WEB)' || { echo 'name the text to count: make study-subsets WEB="folder or files"' >&2; exit 1; }
	$(BIN)/frspec count-freq $(WEB) --tokenizer $(MODEL) --out $@ --force

# Is the loss fair? Two heads that differ only in --loss, each replayed with the full LM head and with a subset, on
# answers that no training saw. `subset` trains over the 2,048 most frequent answered tokens and the teacher's.
LOSS := $(WORK)/loss
study-loss: $(LOSS)/sampled/config.json $(LOSS)/subset/config.json $(LOSS)/subset.parquet ## one head for each loss, each with all rows and with a subset
	$(BIN)/frspec replay $(ANSWERS) --held-out --model $(MODEL) --methods eagle,frspec --k 2048 --k 8192 \
		--vocab $(LOSS)/subset.parquet --draft $(LOSS)/sampled --draft $(LOSS)/subset --out $(LOSS)/replay.json $(ARGS)

$(LOSS)/%/config.json: $(ANSWERS) | $(READY)
	$(BIN)/frspec train-draft $< --model $(MODEL) --loss $* --out $(@D) --features $(LOSS)/features $(TRAIN_OPTIONS)

$(LOSS)/counts.parquet: $(ANSWERS) | $(READY)
	$(BIN)/frspec count-freq $< --tokenizer $(MODEL) --assistant-only --out $@ --force

$(LOSS)/subset.parquet: $(LOSS)/counts.parquet
	$(BIN)/frspec build-vocab $< --model $(MODEL) --k 8192 --out $@ --force
