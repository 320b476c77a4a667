"""Deployments do not depend on the login shell of the device: which one it is, and what it prints."""

import shutil

import pytest

from edgeexit.deploy.device import open_device
from edgeexit.deploy.remote.documents import InventoryArguments
from edgeexit.deploy.ssh import Connection
from edgeexit.deploy.steps import INVENTORY

PRINTING = "printf 'Welcome to camera-1'; printf 'a warning' >&2; exec sh -c \"$line\""
SHELLS = {
    "sh that prints without a line break": PRINTING,
    **{name: f'exec {name} -c "$line"' for name in ("bash", "dash", "zsh", "tcsh", "fish")},
    "busybox": 'exec busybox sh -c "$line"',
}


@pytest.fixture(params=SHELLS)
def login_shell(request, device):
    """The device with another login shell."""
    command = SHELLS[request.param]
    program = command.split()[1] if command.startswith("exec") else "sh"
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    with device.sshd.login_shell(command):
        yield device


def test_steps_and_the_lock_work_with_every_login_shell(login_shell):
    with open_device(login_shell.sshd.address(), str(login_shell.root / "with space")) as remote, remote.locked():
        reply = remote.call(INVENTORY, InventoryArguments(files=[], folders=[]))
        assert remote.root == str(login_shell.root / "with space")
    assert reply["environments"] == []


def test_arguments_arrive_unchanged_through_every_login_shell(login_shell):
    arguments = ["a b", "$HOME", "'; touch x; '", '"', "*", "ü", "!1 !!", "\\\\a\\'", "two\nlines", ""]
    with Connection(login_shell.sshd.address()) as connection:
        output = connection.run("printf", "<%s>", *arguments).decode()
    assert output.removeprefix("Welcome to camera-1") == "".join(f"<{argument}>" for argument in arguments)
