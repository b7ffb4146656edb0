"""Files that are cut off, have a flipped bit, or hold other values than they should."""

from __future__ import annotations

import copy
import functools
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.attack.trials import COUNT, CPU, TRAIN, Trials, each, own_folder, run

HOSTILE: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 7, 10**4, 10**9, 10**12, 2**31 - 1, 2**63, -(2**63), 10**40),
    *(1.5, -0.5, 1e308, 1e-320, math.nan, math.inf, "", "x", "1", "\ud800", "../x", "/etc/passwd", "default", "yarn"),
    *([], {}, [[]], ["x"], [1, "x"], [-1], [10**9], {"x": 1}, {"1": {}}, [{}]),
]
RUBBISH = [b"", b"not json", b"\xff\xfe", b"[" * 100_000, b"\x80\x04K\x01.", b"NaN", b"PK\x03\x04", bytes(100)]


def truncations(made: Path, chance: random.Random, share: float) -> Trials:
    """Corpus files cut off anywhere: never read as if they were whole."""
    for file in sorted((made / "corpus").iterdir()):
        data = file.read_bytes()
        for _ in each(25, share):
            length = chance.randrange(1, len(data))
            yield f"{file.name} at {length}", functools.partial(_count, made, file.name, data[:length], whole=False)


def flips(made: Path, chance: random.Random, share: float) -> Trials:
    """One flipped bit in a corpus file, a table or a subset."""
    for file in [*sorted((made / "corpus").iterdir()), made / "counts.parquet", made / "subset.parquet"]:
        data = file.read_bytes()
        for _ in each(50, share):
            place, bit = chance.randrange(len(data)), chance.randrange(8)
            trial = functools.partial(_count, made) if file.parent != made else _use_table
            yield (
                f"{file.name}, byte {place}, bit {bit}",
                functools.partial(trial, file.name, _flipped(data, place, bit)),
            )


def _flipped(data: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def _count(made: Path, name: str, data: bytes, *, whole: bool = True) -> str:
    import pyarrow.parquet as pq

    with own_folder() as folder:
        (folder / name).write_bytes(data)
        code = run("count-freq", folder / name, "-t", made / "tokenizer", "-o", folder / "out", *COUNT)
        if code == 0 and not whole:
            metadata = pq.read_schema(folder / "out").metadata[b"frspec"]
            if json.loads(metadata)["documents"] < 400:
                return "it was read as if it were whole"
        return "" if code in (0, 1) else f"exit code {code}"


def _use_table(name: str, data: bytes) -> str:
    with own_folder() as folder:
        path = folder / name
        path.write_bytes(data)
        run("inspect", path)
        run("build-vocab", path, "--k", 8, "-o", folder / "o.parquet")
        run("export-vocab", path, "--to", "sglang", "-o", folder / "o.pt")
    return ""


def artifacts(made: Path, chance: random.Random, share: float) -> Trials:
    """Values changed or removed inside everything that frspec or transformers wrote, then used by the commands."""
    kinds: list[
        tuple[str, Callable[[Path, random.Random], None], Callable[[Path, Path, int], list[tuple[object, ...]]]]
    ] = [
        *[(name, _change_table, _table_uses) for name in ("counts.parquet", "subset.parquet")],
        *[(name, _change_bytes, _list_uses) for name in ("ids.pt", "pair/d2t.npy", "pair/t2d.npy")],
        *[(name, _change_json, _list_uses) for name in ("ids.pt.manifest.json", "pair/vocabulary.manifest.json")],
        *[(f"model/{name}.json", _change_json, _model_uses) for name in ("config", "generation_config", "tokenizer")],
        ("model/tokenizer_config.json", _change_json, _model_uses),
        ("model/model.safetensors", _change_tensors, _model_uses),
        *[(f"{name}/config.json", _change_json, _head_uses) for name in ("head", "eagle2")],
        *[(f"{name}/model.safetensors", _change_tensors, _head_uses) for name in ("head", "eagle2")],
        ("head.training/run.json", _change_json, _training_uses),
        ("head.training/metrics.jsonl", _change_lines, _training_uses),
        ("head.training/checkpoint.safetensors", _change_tensors, _training_uses),
        ("head.training/features/*.safetensors", _change_tensors, _training_uses),
        ("answers.jsonl", _change_lines, _answer_uses),
        ("prompts.jsonl", _change_lines, _answer_uses),
    ]

    for use in (_table_uses, _list_uses, _model_uses, _head_uses, _training_uses, _answer_uses):
        for number in range(6):  # otherwise everything might be refused for one and the same reason
            yield f"as made, {use.__name__}, {number}", functools.partial(_use_changed, made, "", None, use, number)
    for index in each(400, share):
        name, change, uses = kinds[index % len(kinds)]
        seed, number = f"{chance.random()}", chance.randrange(60)
        change_it = functools.partial(_change_with, change, seed)
        yield f"{name}, {seed}", functools.partial(_use_changed, made, name, change_it, uses, number)


def _change_with(change: Callable[[Path, random.Random], None], seed: str, path: Path) -> None:
    change(path, random.Random(seed))


def _use_changed(made: Path, name: str, change: Callable[[Path], None] | None, uses: Any, number: int) -> str:
    with own_folder() as folder:
        for path in made.iterdir():
            if path.name != "corpus":
                (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
        if change:
            change(sorted(folder.glob(name))[0])
        codes = [run(*line) for line in uses(folder, made, number)]
    wrong = [code for code in codes if code not in ((0, 1, 2) if change else (0,))]
    return f"exit codes {wrong}" if wrong else ""


def _table_uses(folder: Path, made: Path, number: int) -> list[tuple[object, ...]]:
    counts, subset, out = folder / "counts.parquet", folder / "subset.parquet", folder / "o.parquet"
    model = ("--model", folder / "model", "--draft", folder / "head", *CPU)
    return [
        [("inspect", counts), ("inspect", subset)],
        [("build-vocab", counts, "--k", 30, "-o", out)],
        [("merge", counts, folder / "more.parquet", "-o", out)],
        [("coverage", subset, "--on", counts)],
        [("export-vocab", subset, "--to", "sglang", "-o", folder / "o.pt")],
        [("generate", "a fox", *model, "--vocab", subset, "--method", "frspec", "-n", 3)],
    ][number % 6]


def _list_uses(folder: Path, made: Path, number: int) -> list[tuple[object, ...]]:
    lists = (folder / "ids.pt", folder / "pair" / "d2t.npy", folder / "pair" / "t2d.npy")
    if number % 2:
        return [("inspect", each) for each in lists]
    tokenizer = ("--tokenizer", folder / "tokenizer")
    return [("import-vocab", each, *tokenizer, "-o", folder / f"{each.stem}.parquet") for each in lists]


def _model_uses(folder: Path, made: Path, number: int) -> list[tuple[object, ...]]:
    model = ("--model", folder / "model", *CPU)
    return [
        [("generate", "a fox", *model, "--method", "lookup", "-n", 3)],
        [("count-freq", folder / "texts.jsonl", "-t", folder / "model", "-o", folder / "o.parquet", *COUNT)],
        [("collect", folder / "prompts.jsonl", *model, "-n", 3, "--limit", 2, "-o", folder / "o.jsonl")],
        [("inspect", folder / "model")],
    ][number % 4]


def _head_uses(folder: Path, made: Path, number: int) -> list[tuple[object, ...]]:
    model = ("--model", folder / "model", *CPU)
    return [
        [("generate", "a fox", *model, "--draft", folder / "head", "--method", "eagle", "-n", 3)],
        [("generate", "a fox", *model, "--draft", folder / "eagle2", "--method", "eagle", "-n", 3)],
        [("inspect", folder / name) for name in ("head", "eagle2")],
        [("export-draft", folder / "eagle2", "--to", "eagle", "-o", folder / "o")],
    ][number % 4]


def _training_uses(folder: Path, made: Path, number: int) -> list[tuple[object, ...]]:
    # The target of the run that is resumed: by its path too.
    return [("train-draft", folder / "answers.jsonl", "--model", made / "model", "-o", folder / "head", *TRAIN)]


def _answer_uses(folder: Path, made: Path, number: int) -> list[tuple[object, ...]]:
    rest = ("--model", folder / "model", *CPU)
    return [
        [("collect", folder / "prompts.jsonl", *rest, "-n", 2, "-o", folder / "o.jsonl")],
        [("train-draft", folder / "answers.jsonl", "--limit", 4, "-o", folder / "o", "--epochs", 1, *rest)],
        [("coverage", folder / "subset.parquet", "--on", folder / "answers.jsonl", "--model", folder / "model")],
    ][number % 3]


# How a file is changed.


def _mutated(value: Any, chance: random.Random) -> Any:
    """A JSON value with one to three of its parts replaced or removed."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        path = chance.choice(_places(value))
        if not path:
            if chance.random() < 0.1:
                return copy.deepcopy(chance.choice(HOSTILE))
            continue
        parent = functools.reduce(lambda part, key: part[key], path[:-1], value)
        if chance.random() < 0.6:
            parent[path[-1]] = copy.deepcopy(chance.choice(HOSTILE))
        else:
            del parent[path[-1]]
    return value


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in below for place in _places(part, (*path, key)))]


def _mutated_json(text: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.1:
        return chance.choice(RUBBISH)
    return json.dumps(_mutated(json.loads(text), chance)).encode()


def _change_json(path: Path, chance: random.Random) -> None:
    path.write_bytes(_mutated_json(path.read_bytes(), chance))


def _change_lines(path: Path, chance: random.Random) -> None:
    lines = path.read_bytes().splitlines()
    number = chance.randrange(len(lines))
    lines[number] = _mutated_json(lines[number], chance)
    path.write_bytes(b"\n".join(lines) + b"\n")


def _change_bytes(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    if chance.random() < 0.1:
        data = chance.choice(RUBBISH)
    elif chance.random() < 0.3:
        data = data[: chance.randrange(len(data))]
    else:
        data = _flipped(data, chance.randrange(min(len(data), 400)), chance.randrange(8))
    path.write_bytes(data)


def _change_tensors(path: Path, chance: random.Random) -> None:
    """The header's values, its length, a bit of it, or the file's end; sometimes a NaN among the weights."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    match chance.randrange(5):
        case 0:
            return _change_bytes(path, chance)
        case 1:
            data = _flipped(data, chance.randrange(8 + length), chance.randrange(8))
        case 2:
            data = chance.choice([0, 1, length + 1, 2**31, 2**63]).to_bytes(8, "little") + header + rest
        case 3:
            place = 4 * chance.randrange(len(rest) // 4)
            data = data[: 8 + length] + rest[:place] + b"\x00\x00\xc0\x7f" + rest[place + 4 :]
        case 4:
            header = json.dumps(_mutated(json.loads(header), chance)).encode()
            data = len(header).to_bytes(8, "little") + header + rest
    path.write_bytes(data)


def _change_table(path: Path, chance: random.Random) -> None:
    """The metadata of one of our parquet files, or one column's values or type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    text = table.schema.metadata[b"frspec"]
    if chance.random() < 0.6:
        text = _mutated_json(text, chance)
    else:
        index = chance.randrange(table.num_columns)
        value = chance.choice([-1, 0, 1, 2**31 - 1, 2**62, None, "x", b"\xff", 0.5, math.nan])
        values = [value] * len(table) if chance.random() < 0.5 else [*table.column(index).to_pylist()[1:], value]
        try:
            table = table.set_column(index, table.column_names[index], pa.array(values))
        except (pa.ArrowException, TypeError, OverflowError):
            table = table.drop_columns([table.column_names[index]])
    pq.write_table(table.replace_schema_metadata({b"frspec": text}), path)
