"""Small tokenizers and corpora, made in-process, and the plain loop that every count is compared with."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from frspec_cli.corpus.options import Selection
from frspec_cli.corpus.sources import find_shards
from frspec_cli.counting.count import CountResult, count_corpus
from frspec_cli.counting.options import CountOptions, RunOptions
from frspec_cli.counting.table import FrequencyTable
from frspec_cli.progress import Callbacks

TRAINING_TEXT = [
    "the quick brown fox jumps over the lazy dog and the hen runs away from the fox",
    "def count(tokens):\n    return {token: tokens.count(token) for token in set(tokens)}\n",
    "\u00dcberall gr\u00fcnt es, und die Stra\u00dfe f\u00fchrt ans Meer. "
    "\u6c34\u306f\u4f4e\u304d\u306b\u6d41\u308c\u308b\u3002 It's 12,345 o'clock!",
] * 3
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
WORDS = ["the", "fox", "a", "hen", "dog", "over", "lazy", "quick", "brown", "def", "return", "count"]
WORDS += ["\u00fcber", "\u6c34", "1,234", "<|end|>", "\n"]


def byte_level(folder: Path, *, all_bytes: bool = True, size: int = 400) -> Path:
    """A byte-level BPE tokenizer.json with a chat template; `all_bytes=False` leaves bytes out of its vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>", "<|turn|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if all_bytes else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return _save(tokenizer, folder)


def sentence_piece(folder: Path, *, size: int = 600) -> Path:
    """A BPE with `\u2581` for spaces and byte fallback, as SentencePiece models are converted."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>", *byte_tokens], show_progress=False)
    trained.train_from_iterator(TRAINING_TEXT, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    bpe = models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    # A hole in the ids, and special tokens behind it.
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True), AddedToken("<|turn|>", special=True)])
    return _save(tokenizer, folder)


def _save(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|end|>", "bos_token": "", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def plain_loop(tokenizer: Path, texts: Iterable[str]) -> Counter[int]:
    """One `encode` a document into a Counter: no special tokens added, none recognised."""
    backend = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    backend.encode_special_tokens = True
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(backend.encode(text, add_special_tokens=False).ids)
    return counts


def as_counter(table: FrequencyTable) -> Counter[int]:
    """A table's totals as a Counter."""
    totals = table.totals()
    return Counter({int(index): int(totals[index]) for index in np.flatnonzero(totals)})


def texts(number: int, *, seed: int = 0, words: int = 40) -> list[str]:
    """Random documents of known words, some with line ends, foreign letters and special strings."""
    random = np.random.default_rng(seed)
    documents = (random.choice(WORDS, size=random.integers(1, words)) for _ in range(number))
    return [" ".join(words) for words in documents]


def write_jsonl(path: Path, records: Sequence[Any]) -> Path:
    """Records as JSON lines, compressed by the file's suffix; strings become `{"text"}` with a label in turn."""
    labels = ("web", "code", "books")
    full = [
        {"text": item, "meta": {"redpajama_set_name": labels[index % 3]}} if isinstance(item, str) else item
        for index, item in enumerate(records)
    ]
    return write(path, "".join(json.dumps(record) + "\n" for record in full).encode())


def write(path: Path, data: bytes) -> Path:
    """Bytes into a file, compressed by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compress = {
        ".gz": lambda raw: gzip.compress(raw, mtime=0),
        ".zst": zstandard.ZstdCompressor().compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }
    path.write_bytes(compress.get(path.suffix, bytes)(data))
    return path


def count(
    sources: Sequence[Path | str],
    tokenizer: Path,
    out: Path,
    *,
    selection: Selection | None = None,
    options: CountOptions | None = None,
    callbacks: Callbacks | None = None,
    **how: Any,
) -> CountResult:
    """Counts, by default with one worker."""
    shards = find_shards([str(source) for source in sources], selection)
    how = {"workers": 1} | how
    return count_corpus(shards, str(tokenizer), out, options=options, how=RunOptions(**how), callbacks=callbacks)
