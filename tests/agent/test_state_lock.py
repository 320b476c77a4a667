"""The lock of a state folder: one agent per folder, also after the folder was removed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeexit.agent.state_lock import FILE, lock_state_dir
from edgeexit.errors import ConfigError
from tests.disks import remount, small_disk


def test_a_second_lock_of_a_folder_is_refused_until_the_first_one_is_released(tmp_path: Path) -> None:
    with lock_state_dir(tmp_path):
        with pytest.raises(ConfigError, match="another agent uses state_dir"), lock_state_dir(tmp_path):
            pass
        other = "import sys; from pathlib import Path; from edgeexit.agent.state_lock import StateLock\n"
        process = [sys.executable, "-c", other + "StateLock(Path(sys.argv[1]))", str(tmp_path)]
        assert b"another agent uses" in subprocess.run(process, capture_output=True, check=False).stderr
    with lock_state_dir(tmp_path):
        pass


def test_a_removed_folder_is_created_and_locked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "state"
    with lock_state_dir(folder) as lock:
        lock.retake()
        assert lock.retaken == 0
        shutil.rmtree(folder)
        lock.retake()
        assert lock.retaken == 1
        assert "was removed or replaced" in caplog.text
        assert folder.stat().st_mode & 0o777 == 0o700
        lock.retake()
        assert lock.retaken == 1
        with pytest.raises(ConfigError, match="another agent uses"), lock_state_dir(folder):
            pass
        shutil.move(folder, tmp_path / "away")
        lock.retake()
        assert lock.retaken == 2, "a moved folder is not the state folder any more"


def test_a_folder_that_another_agent_took_meanwhile_is_not_shared(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with lock_state_dir(folder) as lock:
        shutil.rmtree(folder)
        with lock_state_dir(folder):
            with pytest.raises(ConfigError, match="another agent uses state_dir"):
                lock.retake()
            assert lock.problem is not None
            assert "another agent uses state_dir" in lock.problem
        lock.retake()
        assert (lock.problem, lock.retaken) == (None, 1)


def test_a_folder_on_a_read_only_disk_is_locked_once_it_is_writable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        remount(disk, read_only=True)
        with lock_state_dir(disk / "state") as lock:
            assert "cannot be locked (Read-only file system)" in caplog.text
            lock.retake()
            assert caplog.text.count("cannot be locked") == 1
            remount(disk, read_only=False)
            lock.retake()
            assert (lock.problem, (disk / "state" / FILE).exists()) == (None, True)


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no path, a list of numbers
    for _ in range(5):
        with lock_state_dir(tmp_path / "state") as lock:
            with pytest.raises(ConfigError), lock_state_dir(tmp_path / "state"):
                pass
            shutil.rmtree(tmp_path / "state")
            lock.retake()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_fifo_in_the_place_of_the_lock_does_not_stop_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    with lock_state_dir(tmp_path) as lock:
        lock.retake()
        assert lock.retaken == 0
