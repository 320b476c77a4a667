"""A link that drops, a client that is killed, a damaged copy: what runs is untouched, and a second run goes on."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from edgeexit.deploy import ConnectionLostError, Listener, device_status
from edgeexit.deploy.activation import activate, settle
from edgeexit.deploy.copying import copy_files
from edgeexit.deploy.device import Device
from edgeexit.deploy.payload import local_file
from edgeexit.deploy.ssh import Connection
from edgeexit.errors import DeployError

MIB = 1 << 20
KEY = "0123456789abcdef"


@pytest.fixture
def big(tmp_path):
    """Two files, larger than what is under way in sockets and pipes."""
    files = []
    for n in range(2):
        path = tmp_path / f"big{n}"
        path.write_bytes(os.urandom(24 * MIB))
        files.append(local_file(f"bundle/big{n}", path))
    return files


@pytest.fixture
def linked(device):
    with Connection(device.sshd.address()) as connection:
        yield Device(connection, python=sys.executable, root=str(device.root), retry_delays_s=(0.2,) * 3)


def arrived(device, file):
    return (device.root / "incoming" / KEY / file.name).read_bytes() == file.source.read_bytes()


def test_a_copy_goes_on_where_the_link_dropped(device, linked, big):
    cuts = []

    def cut(through, _total):
        if len(cuts) < 2 and through > (30 if not cuts else 8) * MIB:
            cuts.append(through)
            device.sshd.cut()

    sent = copy_files(linked, big, KEY, cut)
    assert len(cuts) == 2
    assert all(arrived(device, file) for file in big)
    assert sent < 56 * MIB  # all is 48 MiB; what was under way at a cut goes twice, what had arrived does not


def test_a_second_run_sends_what_the_first_did_not(device, linked, big):
    def cut_for_good(through, _total):
        if through > 40 * MIB:
            device.sshd.cut()

    linked._retry_delays_s = ()
    with pytest.raises(ConnectionLostError, match="run the same command again"):
        copy_files(linked, big, KEY, cut_for_good)
    assert arrived(device, big[0])
    with Connection(device.sshd.address()) as connection:
        again = Device(connection, python=sys.executable, root=str(device.root))
        assert copy_files(again, big, KEY, lambda _sent, _total: None) < 20 * MIB
        assert copy_files(again, big, KEY, lambda _sent, _total: None) == 0
    assert arrived(device, big[1])


def test_a_file_that_was_damaged_under_way_is_sent_again(device, linked, big):
    part = device.root / "incoming" / KEY / f"{big[0].name}.{big[0].sha256[:16]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * (20 * MIB))  # as by a disk that lost what it had
    sent = copy_files(linked, big[:1], KEY, lambda _sent, _total: None)
    assert arrived(device, big[0])
    assert sent == (4 + 24) * MIB


def test_a_full_disk_is_told_in_one_line(device, linked, big):
    device.root.mkdir(exist_ok=True)
    limited = device.sshd.programs / "small-files"
    limited.write_text(f'#!/bin/sh\nulimit -f 2048\ntrap "" XFSZ\nexec {sys.executable} "$@"\n')
    limited.chmod(0o755)
    with Connection(device.sshd.address()) as connection:
        full = Device(connection, python=str(limited), root=str(device.root))
        with pytest.raises(DeployError, match="File too large") as refused:
            copy_files(full, big, KEY, lambda _sent, _total: None)
    assert "\n" not in str(refused.value)


def test_a_client_that_is_killed_leaves_no_lock_and_what_it_had_copied(device, bundles, configured):
    config = configured()
    first = device.push(bundles[0], config)
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom edgeexit.bundle import Bundle\n"
        "from edgeexit.deploy import Address, Listener, Request, deploy\nimport msgspec\n"
        "address = msgspec.convert(msgspec.json.decode(sys.argv[1]), Address, dec_hook=lambda kind, text: kind(text))\n"
        "def wait(sent, total):\n    print('copying', flush=True)\n    time.sleep(60)\n"
        "deploy(Request(bundle=Path(sys.argv[2]), address=address, folder=sys.argv[3], wheel=Path(sys.argv[4]),\n"
        "  wheelhouse=Path(sys.argv[5]), service='process'), Listener(on_bytes=wait))\n"
    )
    address = msgspec.json.encode(device.sshd.address(), enc_hook=str).decode()
    client = subprocess.Popen(
        [sys.executable, "-c", program, address, bundles[1].path, device.root, device.wheel, device.wheels],
        stdout=subprocess.PIPE,
    )
    assert client.stdout.readline() == b"copying\n"
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()
    assert device.current == first.release
    assert device.push(bundles[1]).outcome == "healthy"
    assert device.current != first.release


def test_what_a_client_that_has_gone_left_at_work_is_waited_for(device, linked):
    device.root.mkdir(exist_ok=True)
    said = []
    with (device.root / ".operation.lock").open("a") as work:
        fcntl.flock(work, fcntl.LOCK_EX)

        def say(text):
            said.append(text)
            work.close()  # it ends

        settle(linked, Listener(say=say))
    assert len(said) == 1


def test_the_device_ends_its_switch_without_the_client(device, bundles, configured):
    first = device.push(bundles[0], configured())
    device.push(bundles[1])

    class GoneError(Exception):
        pass

    def gone(step):
        if step == "start":
            raise GoneError

    with Connection(device.sshd.address()) as connection:
        linked = Device(connection, python=sys.executable, root=str(device.root))
        with pytest.raises(GoneError):
            activate(linked, first.release, timeout_s=30, listener=Listener(on_step=gone))
    assert device_status(device.sshd.address(), folder=str(device.root)).current == first.release
    deadline = time.monotonic() + 60
    while not device_status(device.sshd.address(), folder=str(device.root)).serving:
        assert time.monotonic() < deadline
