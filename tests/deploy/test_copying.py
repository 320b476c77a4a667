"""Copies with a lost connection, damaged content or a full disk."""

import os
import sys

import pytest

from edgeexit.deploy import ConnectionLostError
from edgeexit.deploy.copying import copy_files
from edgeexit.deploy.device import Device
from edgeexit.deploy.payload import local_file
from edgeexit.deploy.ssh import Connection
from edgeexit.errors import DeployError
from tests.recorded_progress import RecordedProgress

MIB = 1 << 20
KEY = "0123456789abcdef"


class DroppingConnection(RecordedProgress):
    """Drops the connection once per number in `after_mib`, after that many MiB since the last drop."""

    def __init__(self, sshd, *after_mib):
        super().__init__()
        self._sshd = sshd
        self._after_mib = list(after_mib)
        self._sent = 0

    def advance(self, amount=1, total=None):
        super().advance(amount, total)
        self._sent += amount
        if self._after_mib and self._sent > self._after_mib[0] * MIB:
            del self._after_mib[0]
            self._sent = 0
            self._sshd.drop_connections()

    @property
    def drops_left(self):
        return len(self._after_mib)


@pytest.fixture
def big_files(tmp_path):
    """Two files that are larger than the buffers of sockets and pipes."""
    files = []
    for n in range(2):
        path = tmp_path / f"big{n}"
        path.write_bytes(os.urandom(24 * MIB))
        files.append(local_file(f"bundle/big{n}", tmp_path, path.name))
    return files


@pytest.fixture
def connected(device):
    with Connection(device.sshd.address()) as connection:
        yield Device(connection, python=sys.executable, root=str(device.root), retry_delays_s=(0.2,) * 3)


def has_arrived(device, file):
    return (device.root / "incoming" / KEY / file.name).read_bytes() == file.source.path.read_bytes()


def test_a_copy_continues_where_the_connection_was_lost(device, connected, big_files):
    progress = DroppingConnection(device.sshd, 30, 8)
    sent = copy_files(connected, big_files, KEY, progress=progress)
    assert progress.drops_left == 0
    assert all(has_arrived(device, file) for file in big_files)
    assert sent < 56 * MIB  # 48 MiB, and twice what was in the buffers when the connection was lost


def test_a_second_run_sends_only_the_rest(device, connected, big_files):
    connected._retry_delays_s = ()
    with pytest.raises(ConnectionLostError, match="run the same command again"):
        copy_files(connected, big_files, KEY, progress=DroppingConnection(device.sshd, 40))
    assert has_arrived(device, big_files[0])
    with Connection(device.sshd.address()) as connection:
        again = Device(connection, python=sys.executable, root=str(device.root))
        progress = RecordedProgress()
        sent = copy_files(again, big_files, KEY, progress=progress)
        assert sent < 20 * MIB
        assert (progress.done, progress.total) == (sent, sent)
        assert copy_files(again, big_files, KEY) == 0
    assert has_arrived(device, big_files[1])


def test_a_damaged_file_is_sent_again(device, connected, big_files):
    part = device.root / "incoming" / KEY / f"{big_files[0].name}.{big_files[0].sha256[:16]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * (20 * MIB))  # as if the disk had lost the content
    sent = copy_files(connected, big_files[:1], KEY)
    assert has_arrived(device, big_files[0])
    assert sent == (4 + 24) * MIB


def test_a_full_disk_is_reported_in_one_line(device, big_files):
    device.root.mkdir(exist_ok=True)
    limited = device.sshd.programs / "small-files"
    limited.write_text(f'#!/bin/sh\nulimit -f 2048\ntrap "" XFSZ\nexec {sys.executable} "$@"\n')
    limited.chmod(0o755)
    with Connection(device.sshd.address()) as connection:
        full = Device(connection, python=str(limited), root=str(device.root))
        with pytest.raises(DeployError, match="File too large") as raised:
            copy_files(full, big_files, KEY)
    assert "\n" not in str(raised.value)
