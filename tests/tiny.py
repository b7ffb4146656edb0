"""Tiny models, tokenizers and drafters, made in-process, for every test."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from frspec_cli.decoding.tree import Tree, ancestors_of
from frspec_cli.models.target import Target

CHAT_TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
TEXT = [
    "the quick brown fox jumps over the lazy dog and the hen runs away from the fox",
    "a lighthouse keeper counts the ships that pass by in the night, one by one",
    "def count(tokens): return {token: tokens.count(token) for token in set(tokens)}",
    "Überall grünt es, und die Straße führt ans Meer. 水は低きに流れる。",
]


def tiny_tokenizer(size: int = 320) -> Tokenizer:
    """A byte-level BPE with `<|turn|>` and `<|end|>` (the end-of-sequence token) as added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>", "<|turn|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def tiny_config(**changes: Any) -> Any:
    """A Llama of four layers, 320 tokens, grouped heads; weights drawn wide, so that logits are far apart."""
    from transformers import LlamaConfig

    settings = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    return LlamaConfig(**(settings | changes))


def save_tiny_model(folder: Path) -> Path:
    """Saves a tiny random Llama with its tokenizer and chat template, as float32 safetensors."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(7)
    model = LlamaForCausalLM(tiny_config())
    model.save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "<|end|>",
                "chat_template": CHAT_TEMPLATE,
                "clean_up_tokenization_spaces": False,
            }
        )
    )
    return folder


class NoProcessor:
    """A tokenizer for targets that are fed ids only."""

    eos_token_id = None
    chat_template = None


def tiny_target(*, dtype: torch.dtype = torch.float64, seed: int = 7, config: Any = None) -> Target:
    """A tiny random causal LM, in float64: there identical means identical."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config or tiny_config()).to(dtype).eval().requires_grad_(False)
    return Target(name="tiny", folder=Path("."), model=model, processor=NoProcessor())


class ScriptedDrafter:
    """Drafts from a known text, some of it changed: acceptance is partial by construction.

    script: what plain decoding gives after the prompt.
    wrong: indices into it at which another token is drafted.

    A tree of `beam` branches: the first node of each level is the scripted token, the others are decoys beside it.
    """

    taps: tuple[int, ...] = ()

    def __init__(
        self, script: Sequence[int], *, wrong: set[int], vocab: int, depth: int = 4, beam: int = 2, prompt: int = 0
    ) -> None:
        self.script, self.wrong, self.vocab, self.depth, self.beam = list(script), wrong, vocab, depth, beam
        self.prompt = prompt
        self.nodes = 1 + depth * beam
        self.k = vocab

    def reset(self, *, length: int) -> None:
        pass

    def append_tokens(self, tokens: Sequence[int]) -> None:
        pass

    def append_states(
        self, tokens: torch.Tensor, last: torch.Tensor, taps: tuple[torch.Tensor, ...], start: torch.Tensor
    ) -> None:
        pass

    def propose(self, root: torch.Tensor, position: torch.Tensor, valid: torch.Tensor) -> Tree:
        begin = int(position) - self.prompt  # the script's index of the root
        tokens, parents, levels, trunk = [int(root)], [0], [0], 0
        for level in range(1, self.depth + 1):
            index = begin + level
            right = self.script[index] if index < len(self.script) else 1
            shift = 1 if index in self.wrong else 0
            for branch in range(self.beam):
                tokens.append((right + shift + branch) % self.vocab)
                parents.append(trunk)
                levels.append(level)
            trunk = len(tokens) - self.beam
        parent_nodes = torch.tensor(parents)
        return Tree(
            tokens=torch.tensor(tokens),
            parents=parent_nodes,
            levels=torch.tensor(levels),
            ancestors=ancestors_of(parent_nodes, self.depth),
            valid=torch.ones(len(tokens), dtype=torch.bool),
        )


def run_cli(*arguments: Any) -> tuple[int, str, str]:
    """`frspec ARGUMENTS` in this process: (exit code, stdout, stderr)."""
    from frspec_cli.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["frspec", *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()
