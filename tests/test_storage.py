"""Files appear whole or not at all, whatever fails and wherever."""

from __future__ import annotations

import contextlib
import errno
import os

import numpy as np
import pytest

from frspec_cli import storage
from frspec_cli.errors import FrspecError


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk() -> None:
    """Here the disk is waited for."""


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path) -> None:
    path = tmp_path / "table"
    storage.write_text(path, "old")
    with contextlib.suppress(ZeroDivisionError), storage.atomic_path(path) as temporary:
        temporary.write_text("half of the ne")
        1 / 0  # noqa: B018
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["table"]


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
