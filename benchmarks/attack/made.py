"""What is attacked: a tokenizer, a corpus in every format, a tiny model, and all that frspec makes of them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from benchmarks.attack.trials import COUNT, CPU, TRAIN, run

WORDS = ["the", "fox", "a hen", "\u6c34", "\u00fcber", "1,234", "<|end|>", "\n", "def f(x):", "  "]
TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def make_files(made: Path) -> None:
    """Fills the folder `made`. Raises RuntimeError if a command fails."""
    chance = random.Random(1)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(1, 60))) for _ in range(400)]
    (made / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:20]))
    make_model(made / "model", texts)
    (made / "tokenizer").mkdir()
    (made / "tokenizer" / "tokenizer.json").write_bytes((made / "model" / "tokenizer.json").read_bytes())
    make_corpus(made / "corpus", texts)
    prompts = [{"id": str(number), "prompt": text} for number, text in enumerate(texts[:12])]
    (made / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    counts, subset, answers = made / "counts.parquet", made / "subset.parquet", made / "answers.jsonl"
    for arguments in (
        ("count-freq", made / "corpus", "-t", made / "tokenizer", "-o", counts, *COUNT),
        ("count-freq", made / "texts.jsonl", "-t", made / "tokenizer", "-o", made / "more.parquet", *COUNT),
        ("build-vocab", counts, "--k", 40, "-o", subset),
        ("export-vocab", subset, "--to", "sglang", "-o", made / "ids.pt"),
        ("export-vocab", subset, "--to", "speculators", "-o", made / "pair"),
        ("collect", made / "prompts.jsonl", "--model", made / "model", "-o", answers, "-n", 12, *CPU),
        ("train-draft", answers, "--model", made / "model", "-o", made / "head", *TRAIN),
        ("train-draft", answers, "--model", made / "model", "-o", made / "eagle2", "--layout", "eagle2", *TRAIN),
    ):
        if code := run(*arguments):
            raise RuntimeError(f"{arguments[0]} ended with {code}")


def make_model(folder: Path, texts: list[str]) -> None:
    """A random Llama of four layers with a byte-level BPE of at most 320 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|end|>", "<|turn|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    torch.manual_seed(7)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    lengths = {"vocab_size": backend.get_vocab_size(), "max_position_embeddings": 512}
    config = LlamaConfig(**lengths, **sizes, **heads, **ends, initializer_range=0.3)
    LlamaForCausalLM(config).save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))


def make_corpus(corpus: Path, texts: list[str]) -> None:
    """The same texts in six formats."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zstandard

    corpus.mkdir()
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (corpus / "a.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    (corpus / "b.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines))
    (corpus / "c.json").write_text(json.dumps([{"text": text} for text in texts]))
    table = pa.table({"text": texts, "meta": [{"redpajama_set_name": name} for name in "ab" * (len(texts) // 2)]})
    pq.write_table(table, corpus / "d.parquet")
    for name, new in (("e.arrow", pa.ipc.new_file), ("f.arrow", pa.ipc.new_stream)):
        with new(str(corpus / name), table.schema) as writer:
            writer.write_table(table)
