"""Files appear whole or not at all, whatever fails and wherever."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frspec_cli import leftovers, storage
from frspec_cli.errors import FrspecError


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(tmp_path_factory, monkeypatch) -> None:
    """Here the disk is waited for."""
    monkeypatch.setenv("FRSPEC_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path) -> None:
    path = tmp_path / "table"
    storage.write_text(path, "old")
    with contextlib.suppress(ZeroDivisionError), storage.atomic_path(path) as temporary:
        temporary.write_text("half of the ne")
        1 / 0  # noqa: B018
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["table"]


KILLED = """
import os, signal, sys
from frspec_cli import leftovers, storage
with getattr(storage, sys.argv[1])(sys.argv[2]):
    if sys.argv[1] == "atomic_path":
        open(leftovers.temporary(storage.followed(sys.argv[2])), "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["atomic_path", "atomic_folder"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, kind: str) -> None:
    path = tmp_path / "head"
    killed = subprocess.run([sys.executable, "-c", KILLED, kind, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    [leftover] = tmp_path.iterdir()
    # Another output's, another machine's, and one that a living process still writes.
    others = [
        leftover.name.replace("head", "tail"),
        ".head.1-zzzz0000.tmp",
        f".head.{os.getpid()}-{leftovers.machine()}0000.tmp",
    ]
    for other in others:
        (tmp_path / other).touch()
    with getattr(storage, kind)(path) as temporary:
        if kind == "atomic_path":
            temporary.write_text("whole")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*others, "head"])


def test_a_folder_that_was_moved_away_when_its_writer_was_killed_comes_back(tmp_path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    old = tmp_path / f".head.{process.pid}-{leftovers.machine()}0000.old"
    old.mkdir()
    (old / "config.json").write_text("{}")
    with contextlib.suppress(ZeroDivisionError), storage.atomic_folder(tmp_path / "head"):
        1 / 0  # noqa: B018
    assert (tmp_path / "head" / "config.json").read_text() == "{}"
    assert [file.name for file in tmp_path.iterdir()] == ["head"]


def test_a_folder_that_is_replaced_is_removed_only_when_the_new_one_is_there(tmp_path, monkeypatch) -> None:
    """Killed while it removes the old folder, a process leaves a part of it, which must not come back."""
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "config.json").write_text("old")
    remove, seen = shutil.rmtree, []

    def watched(folder: Path, **options: object) -> None:
        if Path(folder).suffix == leftovers.REPLACED:
            seen.append((tmp_path / "head" / "config.json").read_text())
        remove(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    with storage.atomic_folder(tmp_path / "head") as temporary:
        (temporary / "config.json").write_text("new")
    assert seen == ["new"]
    assert [file.name for file in tmp_path.iterdir()] == ["head"]


def test_whoever_holds_the_lock_clears_what_other_machines_left(tmp_path) -> None:
    """Also under a process id that lives here."""
    old = tmp_path / f".head.{os.getpid()}-zzzz0000.old".replace("z", "0" if leftovers.machine() != "0000" else "1")
    for folder in (old, old.with_suffix(".tmp")):
        folder.mkdir()
    leftovers.clear(tmp_path / "head")
    assert len(list(tmp_path.iterdir())) == 2
    leftovers.clear(tmp_path / "head", held=True)
    assert [file.name for file in tmp_path.iterdir()] == ["head"]


def test_files_that_belong_together_appear_together_or_not_at_all(tmp_path, monkeypatch) -> None:
    (tmp_path / "a").write_text("old")
    files = {tmp_path / "a": b"1", tmp_path / "new" / "b": b"2", tmp_path / "new" / "c": b"3"}
    write, written = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(FrspecError, match="cannot be written: No space left on device"):
            storage.write_together(files)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"
    storage.write_together(files)
    assert {path: path.read_bytes() for path in files} == files
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a", "b", "c", "new"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_line_that_does_not_fit_on_the_disk_is_one_sentence(tmp_path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(FrspecError, match="cannot be written: No space left on device"):
        storage.append_text(tmp_path / "metrics.jsonl", "x\n")


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_disk_errors_are_one_sentence_and_leave_nothing(tmp_path, monkeypatch, call: str, code: int) -> None:
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(FrspecError, match=r"table cannot be written: .*(No space|Input/output)"):
        storage.write_text(tmp_path / "table", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole(tmp_path) -> None:
    path = tmp_path / "head"
    with storage.atomic_folder(path) as temporary:
        (temporary / "config.json").write_text("{}")
        assert not path.exists()
    assert (path / "config.json").read_text() == "{}"
    with contextlib.suppress(ZeroDivisionError), storage.atomic_folder(path) as temporary:
        (temporary / "config.json").write_text("broken")
        1 / 0  # noqa: B018
    assert (path / "config.json").read_text() == "{}"
    assert [file.name for file in tmp_path.iterdir()] == ["head"]


def test_a_folder_replaces_the_one_before(tmp_path) -> None:
    for text in ("one", "two"):
        with storage.atomic_folder(tmp_path / "head") as temporary:
            (temporary / text).write_text(text)
    assert [file.name for file in (tmp_path / "head").iterdir()] == ["two"]
    assert [file.name for file in tmp_path.iterdir()] == ["head"]


@pytest.mark.parametrize("keep", [False, True])
def test_a_folder_that_comes_and_goes_meanwhile_is_no_failure(tmp_path, monkeypatch, keep: bool) -> None:
    """Another process puts its folder at the path, and a third one has moved it away again when this one looks."""
    rename, moved = os.rename, []

    def occupied(source, target):
        moved.append(target)
        if len(moved) == 1:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        rename(source, target)

    monkeypatch.setattr(os, "rename", occupied)
    with storage.atomic_folder(tmp_path / "head", keep_existing=keep) as temporary:
        (temporary / "config.json").write_text("{}")
    assert [file.name for file in tmp_path.iterdir()] == ([] if keep else ["head"])


def test_a_folder_that_others_may_be_reading_is_kept(tmp_path) -> None:
    for text in ("one", "two"):
        with storage.atomic_folder(tmp_path / "model", keep_existing=True) as temporary:
            (temporary / "config.json").write_text(text)
    assert (tmp_path / "model" / "config.json").read_text() == "one"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


REPLACE_OFTEN = """
import sys
from frspec_cli import storage
for number in range(60):
    with storage.atomic_folder(sys.argv[1]) as temporary:
        for name in "ab":
            (temporary / name).write_text(str(number))
"""


def test_processes_that_replace_one_folder_all_succeed(tmp_path) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", REPLACE_OFTEN, tmp_path / "head"]) for _ in range(3)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0, 0]
    assert sorted(file.name for file in (tmp_path / "head").iterdir()) == ["a", "b"]
    assert [file.name for file in tmp_path.iterdir()] == ["head"]


def test_a_linked_folder_stays_a_link(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "head").symlink_to(tmp_path / "real")
    for _ in range(2):
        with storage.atomic_folder(tmp_path / "head") as temporary:
            (temporary / "config.json").write_text("{}")
    assert (tmp_path / "head").is_symlink()
    assert (tmp_path / "real" / "config.json").is_file()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["head", "real"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_filesystem_without_locks_is_warned_about_and_used(tmp_path, monkeypatch, code: int) -> None:
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.warns(RuntimeWarning, match="has no locks"):
        storage.claim_folder(tmp_path / "run", "taken.").close()
    with pytest.warns(RuntimeWarning, match="has no locks"), storage.exclusive("model"):
        pass


def test_a_lock_that_fails_otherwise_is_one_sentence(tmp_path, monkeypatch) -> None:
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(FrspecError, match="lock cannot be locked: Input/output error"):
        storage.claim_folder(tmp_path / "run", "taken.")


HOLD = """
import sys
from pathlib import Path
from frspec_cli import storage
with storage.claim_folder(Path(sys.argv[1]), "taken."):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_of_another_process_is_taken(tmp_path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(FrspecError, match=r"^taken\.$"):
            storage.claim_folder(tmp_path / "run", "taken.")
        other.communicate()
    storage.claim_folder(tmp_path / "run", "taken.").close()


def test_a_folder_is_claimed_by_one_at_a_time(tmp_path) -> None:
    with storage.claim_folder(tmp_path / "run", "taken."), pytest.raises(FrspecError, match=r"taken\."):
        storage.claim_folder(tmp_path / "run", "taken.")
    storage.claim_folder(tmp_path / "run", "taken.").close()


def test_a_place_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FrspecError, match=r"cannot be written: .*file is a file, not a folder"):
        storage.write_text(tmp_path / "file" / "out", "x")
    with pytest.raises(FrspecError, match="cannot be written: it is a folder"):
        storage.write_text(tmp_path, "x")
    with (
        pytest.raises(FrspecError, match="cannot be written: it is a file, not a folder"),
        storage.atomic_folder(tmp_path / "file"),
    ):
        pass


def test_read_json_says_what_is_wrong(tmp_path) -> None:
    with pytest.raises(FrspecError, match="there is no file"):
        storage.read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(FrspecError, match="cannot be read as JSON"):
        storage.read_json(tmp_path / "bad.json")


def test_ids_have_one_hash_whatever_their_dtype() -> None:
    ids = [3, 1, 2]
    assert storage.sha256_ids(ids) == storage.sha256_ids(np.array(ids, dtype=np.int32))
    assert storage.sha256_ids(ids) != storage.sha256_ids([1, 2, 3])


def test_the_cache_folder_is_an_environment_variable(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FRSPEC_CACHE", str(tmp_path / "cache"))
    assert storage.cache_folder() == tmp_path / "cache"


def test_an_empty_file_is_nothing_that_could_be_lost(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    with storage.keeping_existing() as kept:
        storage.write_text(tmp_path / "link", "text")
    assert (kept, (tmp_path / "real").read_text(), (tmp_path / "link").is_symlink()) == (set(), "text", True)
    with storage.keeping_existing(), pytest.raises(FrspecError, match="exists and is not what this command makes"):
        storage.write_text(tmp_path / "link", "other")
