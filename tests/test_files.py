"""Atomic writes: on small disks, and on file systems that do not have every operation."""

import errno
import os
import stat
from pathlib import Path
from typing import NoReturn

import pytest

from edgeexit.files import fsync_folder, write_atomic
from tests.disks import fill, small_disk


def refuse(number: int) -> object:
    def call(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_modes_stores_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fchmod", refuse(number))
    write_atomic(tmp_path / "policy.json", b"new", mode=0o644)
    assert (tmp_path / "policy.json").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "policy.json").stat().st_mode) == 0o600, "the mode that mkstemp gives"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_flush_folders_stores_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", refuse(number))
    write_atomic(tmp_path / "policy.json", b"new")
    fsync_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.json"]


@pytest.mark.parametrize(("function", "number"), [("fsync", errno.EIO), ("fchmod", errno.EIO), ("fchmod", errno.EROFS)])
def test_a_disk_that_fails_raises_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    path = tmp_path / "policy.json"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, function, refuse(number))
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        write_atomic(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1, "the temporary file is removed"


def test_the_cause_is_named_even_if_the_temporary_file_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    monkeypatch.setattr(Path, "unlink", refuse(errno.EROFS))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_atomic(tmp_path / "policy.json", b"new")


def test_a_full_disk_keeps_the_old_file_and_takes_the_new_one_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "policy.json"
        write_atomic(path, b"old" * 3000)
        filler = fill(disk)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(path, b"new" * 3000)
        assert path.read_bytes() == b"old" * 3000
        assert sorted(one.name for one in disk.iterdir()) == ["filler", "policy.json"]
        filler.unlink()
        write_atomic(path, b"new" * 3000)
        assert path.read_bytes() == b"new" * 3000
