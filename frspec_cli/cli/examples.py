"""One or two commands per command, as its help ends with them."""

from __future__ import annotations

EXAMPLES = {
    "count-freq": ("frspec count-freq corpus/ --tokenizer smollm2-135m --out counts.parquet",),
    "merge": ("frspec merge part-1.parquet part-2.parquet --out counts.parquet",),
    "build-vocab": ("frspec build-vocab counts.parquet --k 8192,32768 --model smollm2-135m --out subsets",),
    "coverage": ("frspec coverage subset.parquet --on other-text/ --k 4096,8192 --plot coverage.pdf",),
    "export-vocab": ("frspec export-vocab subset.parquet --to sglang --out freq_32768.pt",),
    "import-vocab": ("frspec import-vocab freq_32768.pt --tokenizer llama3/ --out subset.parquet",),
    "collect": ("frspec collect --prompts prompts.jsonl --model smollm2-135m --out answers.jsonl",),
    "import-answers": ("frspec import-answers batch-output.jsonl --tokenizer llama3/ --out answers.jsonl",),
    "train-draft": ("frspec train-draft answers.jsonl --model smollm2-135m --out head",),
    "export-draft": ("frspec export-draft head --to sglang --out head-sglang",),
    "doctor": ("frspec doctor --model llama3/ --draft head --answers answers.jsonl",),
    "generate": (
        'frspec generate "Tell me about owls."',
        "frspec generate --prompts prompts.jsonl --method eagle --json",
    ),
    "verify": ("frspec verify --prompts prompts.jsonl --limit 40 --out verified.json",),
    "bench": ("frspec bench --prompts prompts.jsonl --methods ar,eagle,frspec --out bench.json",),
    "replay": ("frspec replay answers.jsonl --k 4096,8192 --tree 4,2,8 --tree 5,4,16 --out replay.json",),
    "tune": ("frspec tune answers.jsonl --out tune.json", "frspec tune --costs fr-spec-8b"),
    "profile": ("frspec profile --prompts prompts.jsonl --methods eagle,frspec --out profile.json",),
    "report": ("frspec report bench.json replay.json --out report.html",),
    "demo": ("frspec demo",),
    "inspect": ("frspec inspect subset.parquet",),
    "fetch": ("frspec fetch smollm2-135m",),
    "env": ("frspec env --json",),
}
"""Command -> what its help shows; a test parses each."""
