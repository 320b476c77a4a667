"""What keeps a connection from coming about, each in one line that says what to do."""

import pytest

from edgeexit.deploy import Address, device_status
from edgeexit.deploy.ssh import Connection
from edgeexit.errors import ConfigError, DeployError


def refusal(address):
    with Connection(address) as connection, pytest.raises(DeployError) as refused:
        connection.run("true")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_host_that_is_unknown(device):
    assert "'no-such-host.invalid' is unknown" in refusal(device.sshd.address(host="no-such-host.invalid"))


def test_a_port_where_nobody_listens(device):
    assert "refuses the connection" in refusal(device.sshd.address(port=1))


def test_a_key_that_is_not_let_in(device):
    assert "ssh-copy-id" in refusal(device.sshd.address(identity=device.sshd.folder / "stranger"))


def test_a_host_key_that_has_changed(device):
    device.sshd.change_known_key()
    assert "has changed" in refusal(device.sshd.address())


def test_a_host_key_that_is_not_known(device):
    device.sshd.forget_known_key()
    assert "is not known here" in refusal(device.sshd.address())


def test_no_ssh_here(device, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeployError, match="install the OpenSSH client"):
        device_status(device.sshd.address())


@pytest.mark.parametrize("host", ["-oProxyCommand=touch pwned", "pi@-oProxyCommand=pwned", "-l@camera", "pi@", "a b"])
def test_what_is_no_address_is_never_given_to_ssh(host):
    with pytest.raises(ConfigError, match="is no address"):
        Address(host=host)


def test_an_identity_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="is not there"):
        Address(host="pi@camera", identity=tmp_path / "id")


def test_words_arrive_as_they_are(device):
    with Connection(device.sshd.address()) as connection:
        words = ["a b", "$HOME", "'; touch x; '", '"', "*", "ü"]
        assert connection.run("printf", r"%s\n", *words).decode().splitlines() == words
        with pytest.raises(DeployError, match=r"127\.0\.0\.1: sh: "):
            connection.run("sh", "/no/such/script")


def test_one_connection_serves_all_and_none_is_left(device):
    with Connection(device.sshd.address()) as connection:
        folder = connection._folder
        clients = {connection.run("sh", "-c", "echo $SSH_CONNECTION") for _ in range(3)}
        assert len(clients) == 1
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
