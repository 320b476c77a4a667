"""The options for the broker: a password without encryption is a warning, and an error names the options."""

import inspect

import pytest

from edgeexit.cli.calibrator.broker_options import with_broker_options
from edgeexit.errors import ConfigError


def connect(**options):
    """Call a command with these options and return the broker that it gets."""
    received = []

    @with_broker_options
    def command(broker):
        received.append(broker)

    defaults = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    command(**{**defaults, **options})
    return received[0]


def test_a_password_that_is_sent_without_encryption_is_a_warning_that_names_the_broker(capsys):
    login = {"broker_username": "u", "broker_password_file": "p"}
    assert connect(broker="mqtt://broker.example", **login).username == "u"
    assert (
        "warning: the password for the broker at 'broker.example' is sent without encryption" in capsys.readouterr().err
    )
    connect(broker="mqtts://broker.example", **login)
    connect(broker="mqtt://localhost", **login)
    assert capsys.readouterr().err == ""


def test_a_tls_file_without_tls_is_an_error_that_names_the_option():
    with pytest.raises(ConfigError, match=r"--broker: --broker-ca cannot be used with 'mqtt://a'.*mqtts://"):
        connect(broker="mqtt://a", broker_ca="ca.crt")


def test_errors_of_proxies_and_passphrases_name_the_options_and_leave_urls_as_they_are():
    with pytest.raises(ConfigError, match=r"--broker-proxy 'socks5://proxy:1' must be http://\[USER@\]HOST"):
        connect(broker_proxy="socks5://proxy:1")
    with pytest.raises(ConfigError, match=r"--broker-proxy must not contain .* use --broker-proxy-password-file"):
        connect(broker_proxy="http://user:secret@proxy")
    with pytest.raises(ConfigError, match="--broker-key-passphrase-file needs --broker-certificate and --broker-key"):
        connect(broker="mqtts://a", broker_key_passphrase_file="p")  # noqa: S106
    assert connect(broker="wss://a", broker_proxy="http://user@proxy").proxy == "http://user@proxy"
