"""Two tiny tokenizers made here (byte-level BPE, SentencePiece-like with byte fallback) and tables of their tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from frspec_cli.counting.table import FOLDS, FrequencyTable
from frspec_cli.tokens.tokenizer import LoadedTokenizer, load_tokenizer

TEXT = [
    "the cat sat on the mat and the other cat sat on the other mat",
    "def count(tokens): return sum(tokens)",
    "кошка сидит на окне, а другая кошка спит",
    "中文的詞彙很大，所以中文需要自己的詞彙",
    "日本語のテキストとカタカナ",
] * 20
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def _save(backend: tokenizers.Tokenizer, folder: Path, *, eos: str) -> LoadedTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"chat_template": TEMPLATE, "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(str(folder))


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> LoadedTokenizer:
    """About 420 tokens: 256 bytes, merges, five added tokens of which one is reserved."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=415, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXT, trainer)
    backend.add_special_tokens(["<|begin|>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|reserved_0|>"])
    return _save(backend, tmp_path_factory.mktemp("byte_level"), eos="<|end|>")


@pytest.fixture(scope="session")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> LoadedTokenizer:
    """Characters and byte tokens `<0x00>`..`<0xFF>`; <unk>, <s>, </s> first, two turn tokens last."""
    characters = sorted(set("".join(TEXT)) - {" "})
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *characters]
    vocabulary = {name: index for index, name in enumerate(names)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    return _save(backend, tmp_path_factory.mktemp("sentencepiece"), eos="</s>")


@pytest.fixture(scope="session")
def other_rules(byte_level: LoadedTokenizer, tmp_path_factory: pytest.TempPathFactory) -> LoadedTokenizer:
    """The byte-level tokenizer with another pre-tokenizer and the same vocabulary."""
    parsed = json.loads(byte_level.path.read_text())
    parsed["pre_tokenizer"]["add_prefix_space"] = True
    folder = tmp_path_factory.mktemp("other_rules")
    (folder / "tokenizer.json").write_text(json.dumps(parsed))
    (folder / "tokenizer_config.json").write_text((byte_level.path.parent / "tokenizer_config.json").read_text())
    return load_tokenizer(str(folder))


@pytest.fixture
def make_table() -> Callable[..., FrequencyTable]:
    """make_table(tokenizer, {source: {id: count} or int64 [FOLDS, rows]}, model_rows=None): spread over the folds."""

    def make(tokenizer: LoadedTokenizer, sources: dict, *, model_rows: int | None = None, **metadata) -> FrequencyTable:
        rows = tokenizer.highest_id + 1
        counts = {}
        for source, given in sources.items():
            dense = given if isinstance(given, np.ndarray) else np.zeros((FOLDS, rows), dtype=np.int64)
            if not isinstance(given, np.ndarray):
                for token_id, count in given.items():
                    dense[:, token_id] = [count // FOLDS + (fold < count % FOLDS) for fold in range(FOLDS)]
            counts[source] = dense
        described = tokenizer.record() | {"model_rows": model_rows}
        tokens = sum(int(dense.sum()) for dense in counts.values())
        encoder = {"name": "reference", "version": "1"}
        rest = {"documents": 10, "tokens": tokens, "bytes": 0, "skipped": {}, "shards": [], "encoder": encoder}
        return FrequencyTable(counts, {"tokenizer": described, "options": {}, **rest, **metadata})

    return make
