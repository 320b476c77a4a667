"""The configuration that is sent to a device: the files that it names, and errors before anything is sent."""

import pytest

from edgeexit.agent.config import AgentConfig
from edgeexit.deploy import read_configuration
from edgeexit.errors import ConfigError
from edgeexit.signing import generate_key
from edgeexit.wire import BrokerConfig


@pytest.fixture
def write(tmp_path):
    def write_files(text, *files):
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("content")
        (tmp_path / "agent.toml").write_text(f'fleet = "shop"\n{text}')
        return tmp_path / "agent.toml"

    return write_files


def test_files_with_relative_paths_are_copied_and_absolute_paths_are_paths_on_the_device(write, tmp_path):
    (tmp_path / "keys").mkdir()
    generate_key(tmp_path / "keys" / "c.pem")
    path = write(
        'trusted_keys = ["keys/c.pub"]\nstate_dir = "/data/edgeexit"\n[broker]\nurl = "mqtts://b"\nca_file = "ca.crt"\n'
        'username = "u"\npassword_file = "secret/password"\nkey_file = "/etc/ssl/device.key"\n'
        'certificate_file = "/etc/ssl/device.crt"\n[endpoint]\nhost = "0.0.0.0"\nport = 9000\n',
        "ca.crt",
        "secret/password",
    )
    configuration = read_configuration(path)
    assert {file.name for file in configuration.files} == {"agent.toml", "keys/c.pub", "ca.crt", "secret/password"}
    assert {file.mode for file in configuration.files} == {0o600}
    assert configuration.endpoint == ("127.0.0.1", 9000)
    assert configuration.writable_folders == ("/data/edgeexit",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[broker]\nurl = "mqtts://b"\nca_file = "ca.crt"', "broker.ca_file = 'ca.crt' does not exist"),
        ('[broker]\nurl = "mqtts://b"\nca_file = "../ca.crt"', "must be a file beside the config file"),
        ('[broker]\nurl = "mqtts://b"\nca_file = "state/ca.crt"', "must be a file beside the config file"),
        ('trusted_keys = ["c.pub"]', "trusted_keys = 'c.pub' does not exist"),
        ('[broker]\nurl = "mqtts://b"\nca_file = "."', "must be a file beside the config file"),
        ('state_dir = "."', "would be deleted with the release"),
        ('state_dir = "data"', "would be deleted with the release"),
        ('state_dir = "state/../data"', "would be deleted with the release"),
        ("[endpoint]\nenabled = false", "checks the agent's health"),
        ("[endpoint]\nport = 0", "give it a port"),
        ("[endpoint]\ntcp = false\nsocket = 'state/s'", "tcp = false"),
        ('[broker]\nca_file = "ca.crt"', "mqtts://"),
        ("flet = 1", "flet"),
        ('[broker]\nurl = "mqtt://u:p@b"', "credentials"),
    ],
)
def test_a_configuration_that_would_fail_on_the_device_is_refused(write, text, expected):
    with pytest.raises(ConfigError) as raised:
        read_configuration(write(text))
    assert expected in str(raised.value)
    assert "agent.toml" in str(raised.value)


def test_a_file_that_is_not_a_key_is_refused(write):
    with pytest.raises(ConfigError, match=r"c\.pub"):
        read_configuration(write('trusted_keys = ["c.pub"]', "c.pub"))


def test_every_file_that_a_configuration_can_name_is_copied(write, tmp_path):
    broker = {field: f"{field}.file" for field in BrokerConfig.__struct_fields__ if field.endswith("_file")}
    keys = {field: f"{field}.pub" for field in AgentConfig.__struct_fields__ if field.endswith("_keys")}
    for field in keys:
        generate_key(tmp_path / f"{field}.key")
    text = "".join(f'{field} = ["{name}"]\n' for field, name in keys.items()) + "signed_bundle = true\n[broker]\n"
    text += 'url = "mqtts://b"\nusername = "u"\nproxy = "http://p@h:3128"\n'
    text += "".join(f'{field} = "{name}"\n' for field, name in broker.items())
    copied = {file.name for file in read_configuration(write(text, *broker.values())).files}
    assert copied == {"agent.toml", *broker.values(), *keys.values()}
