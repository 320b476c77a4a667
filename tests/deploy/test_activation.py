"""Activations whose client disappears: the device finishes the activation, and the next client waits until it has."""

import fcntl
import sys
import time

import pytest

from edgeexit.deploy import device_status
from edgeexit.deploy.activation import activate, wait_for_earlier_step
from edgeexit.deploy.device import Device
from edgeexit.deploy.ssh import Connection
from edgeexit.progress import Progress


@pytest.fixture
def connected(device):
    with Connection(device.sshd.address()) as connection:
        yield Device(connection, python=sys.executable, root=str(device.root), retry_delays_s=(0.2,) * 3)


def test_a_client_waits_for_the_step_of_an_earlier_client(device, connected):
    device.root.mkdir(exist_ok=True)
    messages = []
    with (device.root / ".operation.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        class EndingTheStep(Progress):
            def message(self, text):
                messages.append(text)
                lock.close()

        wait_for_earlier_step(connected, progress=EndingTheStep())
    assert len(messages) == 1


def test_the_device_finishes_the_activation_without_the_client(device, connected, bundles, write_config):
    first = device.push(bundles[0], write_config())
    device.push(bundles[1])

    class ClientGoneError(Exception):
        pass

    class Disappearing(Progress):
        def step(self, name):
            if name == "start":
                raise ClientGoneError

    with pytest.raises(ClientGoneError):
        activate(connected, first.release, timeout_s=30, progress=Disappearing())
    assert device_status(device.sshd.address(), folder=str(device.root)).current == first.release
    deadline = time.monotonic() + 60
    while not device_status(device.sshd.address(), folder=str(device.root)).serving:
        assert time.monotonic() < deadline
