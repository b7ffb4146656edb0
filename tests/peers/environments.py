"""An environment for each peer, in which its own code loads what frspec exports: `python -m tests.peers.environments FOLDER`.

Each is a venv that sees this environment's packages behind its own, so that torch is shared. The packages of
requirements/PEER.txt go into it without what they require themselves, which is builds for GPUs of several gigabytes: what
loading needs is all in that list, or here already.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements"
PEERS = tuple(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))


def python_of(folder: Path, peer: str) -> Path:
    """The interpreter of a peer's environment."""
    return folder / peer / "bin" / "python"


def reason_file(folder: Path, peer: str) -> Path:
    """Holds why a peer could not be installed; does not exist if it was."""
    return folder / f"{peer}.failed.txt"


def install(folder: Path, peer: str) -> None:
    """Makes the peer's environment, unless it is there with the same packages; leaves the reason if that fails."""
    listed = REQUIREMENTS / f"{peer}.txt"
    seal, ours = folder / peer / "installed.txt", sysconfig.get_path("purelib")
    wanted = hashlib.sha256(listed.read_bytes() + ours.encode() + sys.version.encode()).hexdigest()
    if seal.is_file() and seal.read_text() == wanted:
        return
    print(f"installing {peer} into {folder / peer}", flush=True)
    venv.create(folder / peer, clear=True, with_pip=True)
    python = python_of(folder, peer)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
    (Path(own) / "frspec_environment.pth").write_text(f"{ours}\n")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", listed]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        reason_file(folder, peer).write_text(f"{peer} could not be installed: {said[0]}")
    else:
        reason_file(folder, peer).unlink(missing_ok=True)
        seal.write_text(wanted)


def main() -> None:
    """Makes all environments in the folder that the command line names."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for peer in PEERS:
        install(folder, peer)


if __name__ == "__main__":
    main()
