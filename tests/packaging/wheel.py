"""`make package`: sdist and wheel hold what they should, and the wheel works in an environment of its own.

    python -m tests.packaging.wheel out/package

The environment holds the wheel without extras, installed under constraints.txt. It is made anew when pyproject.toml or
constraints.txt change; otherwise only the wheel in it is replaced. All commands run outside the checkout, in an empty home.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ["smollm2-135m", "tables", "costs", "examples"]
"""Folders of data/ that the wheel carries, as frspec_cli/data."""


def build(out: Path, source: Path = ROOT) -> tuple[Path, Path]:
    """(sdist, wheel) of a source tree, in `out`."""
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=source, check=True)
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def expected_files() -> set[str]:
    """What the wheel must hold besides its metadata: every tracked file of the package, and the data that ships."""
    listed = ["git", "ls-files", "frspec_cli", *(f"data/{name}" for name in DATA)]
    tracked = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return {f"frspec_cli/{path}" if path.startswith("data/") else path for path in tracked}


def check_contents(sdist: Path, wheel: Path, scratch: Path) -> None:
    """Raises `AssertionError` if a file is missing or too much, or if the sdist's own wheel holds other files."""
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
        size = sum(info.file_size for info in file.infolist() if "/data/" in info.filename)
    assert held == expected_files(), sorted(held ^ expected_files())
    assert not any("gemma3-270m" in name for name in held)
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch, filter="data")
    source = next(scratch.iterdir())
    assert not (source / "data" / "gemma3-270m").exists()
    assert (source / "tests" / "tiny.py").is_file()
    _, again = build(scratch / "again", source)
    with zipfile.ZipFile(again) as file:
        assert {name for name in file.namelist() if ".dist-info/" not in name} == held
    print(f"{wheel.name}: {len(held)} files, {size / 1e6:.1f} MB of data; the sdist makes the same wheel")


def environment(folder: Path, wheel: Path) -> Path:
    """The environment's bin folder, with the wheel in it."""
    recipe = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    mark, key = folder / "made-of", hashlib.sha256(recipe + sys.version.encode()).hexdigest()
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if not mark.is_file() or mark.read_text() != key:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True)
        mark.write_text(key)
    subprocess.run([*pip, "--no-deps", "--force-reinstall", str(wheel)], check=True)
    return folder / "bin"


SMOKE: list[tuple[str, int, str]] = [  # (command, exit code, what it must print)
    ("frspec --version", 0, "frspec "),
    ("frspec --help", 0, "count-freq"),
    ("frspec build-vocab --model qwen3 --k 1024 --out subset.parquet", 0, "subset.parquet"),
    ("frspec inspect subset.parquet", 0, "1,024"),
    ("frspec export-vocab subset.parquet --to sglang --out hot.pt", 0, "sglang.launch_server"),
    ("frspec tune --costs fr-spec-8b --out tune.json", 0, "32,768"),
    ("frspec env", 0, "torch"),
    ("frspec coverage subset.parquet --on qwen3 --plot x.png", 1, "frspec[plot]"),
    ("frspec report tune.json --out x.html", 1, "frspec[plot]"),
    ("frspec count-freq text.txt --tokenizer tokenizer --encoder fast --out c.parquet", 1, "frspec[fast]"),
    ("frspec count-freq text.txt --tokenizer tokenizer --engine ray --out c.parquet", 1, "frspec[ray]"),
    ("frspec count-freq text.txt --tokenizer tokenizer --out c.parquet", 0, "1 documents"),
]
PYTHON = """
import pathlib, frspec_cli
here = pathlib.Path(frspec_cli.__file__).parent
assert here.parent.name == "site-packages", here
assert (here / "py.typed").is_file()
assert frspec_cli.build_vocab(model="llama3", k=2048).k == 2048
from frspec_cli.models.shipped import shipped_for
assert (shipped_for("smollm2-135m").head / "model.safetensors").is_file()
"""


def smoke(binaries: Path) -> None:
    """Runs the commands. Raises `AssertionError` for the first that does something else."""
    with tempfile.TemporaryDirectory(prefix="frspec-wheel-") as name:
        here = Path(name)
        (here / "text.txt").write_text("a little text")
        made = subprocess.run(
            [str(binaries / "python"), "-c", _TOKENIZER], cwd=here, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        clean = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": name, "HF_HUB_OFFLINE": "1", "LANG": "C.UTF-8"}
        for command, code, printed in SMOKE:
            run = subprocess.run(command.split(), cwd=here, env=clean, capture_output=True, text=True, check=False)
            said = run.stdout + run.stderr
            assert run.returncode == code, f"{command}: exit code {run.returncode}\n{said}"
            assert printed in " ".join(said.split()), f"{command} does not say {printed!r}:\n{said}"
            assert "Traceback" not in said, said
        run = subprocess.run(
            [str(binaries / "python"), "-c", PYTHON], cwd=here, env=clean, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
    print(f"{len(SMOKE)} commands and the Python API work in a clean environment, without extras")


_TOKENIZER = """
import pathlib, tokenizers
bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
bpe.train_from_iterator(["a"], tokenizers.trainers.BpeTrainer(vocab_size=260, initial_alphabet=alphabet))
pathlib.Path("tokenizer").mkdir()
bpe.save("tokenizer/tokenizer.json")
"""


def main() -> None:
    out = Path(sys.argv[1]).resolve()
    os.environ.pop("PYTHONPATH", None)
    sdist, wheel = build(out / "dist")
    with tempfile.TemporaryDirectory(prefix="frspec-sdist-") as scratch:
        check_contents(sdist, wheel, Path(scratch))
    smoke(environment(out / "venv", wheel))


if __name__ == "__main__":
    main()
