"""Pickles, records and chat templates that were made to do harm."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.attack.trials import COUNT, CPU, TRAIN, Trials, each, own_folder, run

TEMPLATES = [
    "{{ raise_exception('go away') }}",
    "{{ 1 / 0 }}",
    "{{ messages[0].nothing.more }}",
    "{% for",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ 'a' * 10000000000 }}",
    "{{ 2 ** 2 ** 2 ** 2 ** 2 ** 2 }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'a' * 9999 }}{% endfor %}{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ '\ud800' }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ messages | map(attribute='__class__.__base__.__subclasses__') | list }}",
]
CODE = "import pathlib\npathlib.Path({canary!r}).touch()\nclass Thing:\n    pass\n"


class Bomb:
    """Creates the file `canary` when its pickle is loaded."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.canary, "w"))


def packed(canary: str) -> dict[str, bytes]:
    """The bomb as each loader would read it."""
    import numpy as np

    bomb, archive, array, arrays = Bomb(canary), io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(bomb))
        file.writestr("archive/version", "3")
    np.save(array, np.array([bomb], dtype=object), allow_pickle=True)
    np.savez(arrays, ids=np.array([bomb], dtype=object))
    return {"pickle": pickle.dumps(bomb), "zip": archive.getvalue(), "npy": array.getvalue(), "npz": arrays.getvalue()}


def pickles(made: Path, chance: random.Random, share: float) -> Trials:
    """Pickles and code in place of everything that is loaded, under every suffix."""
    commands = ("inspect", "import-vocab", "export-vocab", "build-vocab", "merge", "coverage", "count-freq", "generate")
    every = [
        (name, packing, suffix)
        for name in commands
        for packing in ("pickle", "zip", "npy", "npz")
        for suffix in (".pt", ".bin", ".npy", ".npz", ".safetensors", ".json", ".parquet")
    ]
    for name, packing, suffix in chance.sample(every, min(len(every), len(each(len(every), share)))):
        yield f"{name} x{suffix} ({packing})", functools.partial(_load_file, made, name, packing, suffix)
    for place in _PLACES:
        for packing in ("pickle", "zip", "npy", "npz"):
            yield f"{place} ({packing})", functools.partial(_load_folder, made, place, packing)
    for place in ("config.json", "tokenizer_config.json"):
        yield f"code named in {place}", functools.partial(_load_code, made, place)


def _load_file(made: Path, name: str, packing: str, suffix: str) -> str:
    with own_folder() as folder:
        canary, path, out = folder / "canary", folder / f"x{suffix}", folder / "o.parquet"
        path.write_bytes(packed(str(canary))[packing])
        rest: dict[str, tuple[object, ...]] = {
            "inspect": (path,),
            "import-vocab": (path, "--tokenizer", made / "tokenizer", "-o", out),
            "export-vocab": (path, "--to", "npy", "-o", folder / "o.npy"),
            "build-vocab": (path, "--k", 8, "-o", out),
            "merge": (path, made / "counts.parquet", "-o", out),
            "coverage": (path, "--on", made / "counts.parquet"),
            "count-freq": (path, "-t", made / "tokenizer", "-o", out),
            "generate": ("a", "--model", made / "model", "--draft", made / "head", "--vocab", path, "-n", 2, *CPU),
        }
        code = run(name, *rest[name])
        return "its code ran" if canary.exists() else f"exit code {code}" if code not in (0, 1, 2) else ""


_PLACES = {
    "model/model.safetensors": "generate",
    "model/pytorch_model.bin": "generate",
    "head/model.safetensors": "eagle",
    "head/pytorch_model.bin": "eagle",
    "head.training/checkpoint.safetensors": "train-draft",
    "head.training/features/*.safetensors": "train-draft",
    "o.parquet.ledger/*.npz": "count-freq",
}
"""What is replaced, and how it is loaded then."""


def _load_folder(made: Path, place: str, packing: str) -> str:
    with own_folder() as folder:
        for name in ("model", "head", "head.training"):
            shutil.copytree(made / name, folder / name)
        model = ("--model", folder / "model", *CPU)
        (folder / "x.jsonl").write_text('{"text": "a fox"}\nno record\n')
        uses: dict[str, tuple[tuple[object, ...], ...]] = {
            "generate": (("generate", "a", *model, "--method", "lookup", "-n", 2),),
            "eagle": (
                ("generate", "a", *model, "--method", "eagle", "--draft", folder / "head", "-n", 2),
                ("export-draft", folder / "head", "--to", "eagle", "-o", folder / "o"),
                (
                    "train-draft",
                    made / "answers.jsonl",
                    *model,
                    "-o",
                    folder / "h",
                    "--init",
                    folder / "head",
                    *TRAIN[4:],
                ),
            ),
            "train-draft": (("train-draft", made / "answers.jsonl", *model, "-o", folder / "head", *TRAIN[4:]),),
            "count-freq": (
                ("count-freq", folder / "x.jsonl", "-t", made / "tokenizer", "-o", folder / "o.parquet", *COUNT),
            ),
        }
        lines = uses[_PLACES[place]]
        if lines[0][0] == "count-freq":
            run(*lines[0])  # stops at its bad record, and keeps what it has counted
        targets = sorted(folder.glob(place)) or [folder / place]
        canary = folder / "canary"
        for target in targets:
            if target.name == "pytorch_model.bin":
                target.with_name("model.safetensors").unlink()
            target.write_bytes(packed(str(canary))[packing])
        codes = [run(*line) for line in lines]
        return "its code ran" if canary.exists() else "" if set(codes) <= {0, 1} else f"exit codes {codes}"


def _load_code(made: Path, place: str) -> str:
    with own_folder() as folder:
        model, canary = folder / "model", folder / "canary"
        shutil.copytree(made / "model", model)
        described = json.loads((model / place).read_bytes())
        names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
        described["auto_map"] = dict.fromkeys(names, "thing.Thing")
        (model / place).write_text(json.dumps(described))
        (model / "thing.py").write_text(CODE.format(canary=str(canary)))
        run("generate", "a", "--model", model, "--method", "lookup", "-n", 2, *CPU)
        run("count-freq", made / "prompts.jsonl", "-t", model, "-o", folder / "o.parquet", *COUNT)
        return "its code ran" if canary.exists() else ""


def records(made: Path, chance: random.Random, share: float) -> Trials:
    """Thousands of hostile records a file: each is a document or skipped. As prompts: a sentence, or answers."""
    for index in each(12, share):
        lines = [_line(chance) for _ in range(1000)]
        yield f"file {index}", functools.partial(_count_all, made, "x.jsonl", b"\n".join(lines) + b"\n", len(lines))
        values = [_value(chance, 4) for _ in range(300)]
        listed = json.dumps(values).encode()
        yield f"list {index}", functools.partial(_count_all, made, "x.json", listed, len(values))
        prompts = b"\n".join(_line(chance) for _ in range(3)) + b"\n"
        yield f"prompts {index}", functools.partial(_collect, made, prompts)


def _value(chance: random.Random, depth: int) -> Any:
    if depth == 0 or chance.random() < 0.5:
        leaves = [None, True, -(2**70), 1e308, "", "\ud800", "a" * chance.randrange(50), "\x00", "<|end|>", [], {}]
        return chance.choice(leaves)
    if chance.random() < 0.5:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    names = ("text", "messages", "conversations", "role", "content", "from", "value", "prompt", "id", "meta")
    return {name: _value(chance, depth - 1) for name in chance.sample(names, 3)}


def _line(chance: random.Random) -> bytes:
    text = json.dumps(_value(chance, 4)).encode()
    if chance.random() < 0.2:
        place = chance.randrange(len(text) + 1)
        text = text[:place] + chance.choice([b"\xff", b'"', b"{", b"}", b"\\", b"\x00", b"9" * 5000]) + text[place:]
    return text.replace(b"\n", b" ")


def _count_all(made: Path, name: str, data: bytes, number: int) -> str:
    import pyarrow.parquet as pq

    with own_folder() as folder:
        path, out = folder / name, folder / "o.parquet"
        path.write_bytes(data)
        if code := run("count-freq", path, "-t", made / "model", "-o", out, "--max-bad", "1", *COUNT):
            return f"exit code {code}"
        metadata = json.loads(pq.read_schema(out).metadata[b"frspec"])
        accounted = metadata["documents"] + sum(metadata["skipped"].values())
        return "" if accounted == metadata["lines"] == number else f"{accounted} of {number} records accounted for"


def _collect(made: Path, data: bytes) -> str:
    with own_folder() as folder:
        path = folder / "x.jsonl"
        path.write_bytes(data)
        code = run("collect", path, "--model", made / "model", "-o", folder / "o.jsonl", "-n", 2, *CPU)
        return "" if code in (0, 1) else f"exit code {code}"


def templates(made: Path, chance: random.Random, share: float) -> Trials:
    """Chat templates that escape, fail, hang or fill the memory."""
    for template in TEMPLATES[: len(each(len(TEMPLATES), share))]:
        yield f"count-freq {template[:50]!a}", functools.partial(_render, made, template, "count-freq")
        yield f"generate {template[:50]!a}", functools.partial(_render, made, template, "generate")


def _render(made: Path, template: str, name: str) -> str:
    with own_folder() as folder:
        os.chdir(folder)
        shutil.copytree(made / "model", "model")
        Path("model/chat_template.jinja").write_bytes(template.encode("utf-8", "surrogatepass"))
        turns = [{"role": "user", "content": "hens?"}, {"role": "assistant", "content": "yes"}]
        Path("x.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
        if name == "generate":
            code = run("generate", "hens?", "--model", "model", "--method", "lookup", "-n", 2, *CPU)
        else:
            code = run("count-freq", "x.jsonl", "-t", "model", "-o", "o.parquet", *COUNT)
        return "its code ran" if Path("CANARY").exists() else "" if code in (0, 1) else f"exit code {code}"
