"""SSH connections: errors in one line with advice, quoting, and one connection for all commands."""

import pytest

from edgeexit.deploy import Address, device_status
from edgeexit.deploy.ssh import Connection
from edgeexit.errors import ConfigError, DeployError


def connection_error(address):
    with Connection(address) as connection, pytest.raises(DeployError) as raised:
        connection.run("true")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_unknown_host_is_reported_by_name(device):
    assert "'no-such-host.invalid' is unknown" in connection_error(device.sshd.address(host="no-such-host.invalid"))


def test_a_port_without_a_server_is_reported_as_refused(device):
    assert "refuses the connection" in connection_error(device.sshd.address(port=1))


def test_for_a_rejected_key_the_error_advises_ssh_copy_id(device):
    assert "ssh-copy-id" in connection_error(device.sshd.address(identity=device.sshd.folder / "stranger"))


def test_a_changed_host_key_is_refused(device):
    device.sshd.change_known_key()
    assert "has changed" in connection_error(device.sshd.address())


def test_an_unknown_host_key_is_refused(device):
    device.sshd.forget_known_key()
    assert "is not in known_hosts" in connection_error(device.sshd.address())


def test_a_missing_ssh_client_is_an_error_with_advice(device, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeployError, match="install the OpenSSH client"):
        device_status(device.sshd.address())


@pytest.mark.parametrize("host", ["-oProxyCommand=touch pwned", "pi@-oProxyCommand=pwned", "-l@camera", "pi@", "a b"])
def test_an_invalid_address_is_never_passed_to_ssh(host):
    with pytest.raises(ConfigError, match="is not an address"):
        Address(host=host)


def test_a_missing_identity_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        Address(host="pi@camera", identity=tmp_path / "id")


def test_arguments_arrive_unchanged(device):
    with Connection(device.sshd.address()) as connection:
        arguments = ["a b", "$HOME", "'; touch x; '", '"', "*", "ü"]
        assert connection.run("printf", r"%s\n", *arguments).decode().splitlines() == arguments
        with pytest.raises(DeployError, match=r"127\.0\.0\.1: sh: "):
            connection.run("sh", "/no/such/script")


def test_all_commands_share_one_connection_which_is_closed_at_the_end(device):
    with Connection(device.sshd.address()) as connection:
        folder = connection._folder
        clients = {connection.run("sh", "-c", "echo $SSH_CONNECTION") for _ in range(3)}
        assert len(clients) == 1
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()
