"""The broker's URL: scheme, default ports, no credentials; files and passwords only where they are encrypted."""

import pytest

from edgeexit.errors import ConfigError
from edgeexit.wire import BrokerConfig
from edgeexit.wire.broker_config import BrokerEndpoint


@pytest.mark.parametrize("url", ["localhost", "http://localhost:1883", "mqtt://", "mqtt://host:port"])
def test_a_url_that_is_not_an_mqtt_url_is_refused(url):
    with pytest.raises(ConfigError, match="broker url"):
        BrokerConfig(url=url).endpoint()


def test_a_url_with_credentials_is_refused_and_the_error_does_not_repeat_them():
    with pytest.raises(ValueError, match="password_file") as refused:
        BrokerConfig(url="mqtt://user:secret@host")
    assert "secret" not in str(refused.value)


def test_the_default_port_is_1883_without_and_8883_with_tls():
    assert BrokerConfig(url="mqtt://a").endpoint() == BrokerEndpoint("a", 1883, tls=False)
    assert BrokerConfig(url="mqtts://a").endpoint() == BrokerEndpoint("a", 8883, tls=True)


@pytest.mark.parametrize("field", ["ca_file", "certificate_file"])
def test_a_tls_file_without_tls_is_an_error_that_names_the_file_and_the_scheme(field):
    with pytest.raises(ValueError, match=rf"{field} cannot be used with 'mqtt://a'.*mqtts://"):
        BrokerConfig(url="mqtt://a", **{field: "x.pem"})
    BrokerConfig(url="mqtts://a", **{field: "x.pem"})


LOGIN = {"username": "u", "password_file": "p"}


def test_a_setting_that_would_have_no_effect_is_an_error():
    with pytest.raises(ValueError, match="password_file needs username"):
        BrokerConfig(**{**LOGIN, "username": None})
    with pytest.raises(ValueError, match="key_file needs certificate_file"):
        BrokerConfig(url="mqtts://a", key_file="k.pem")


@pytest.mark.parametrize(
    "host", ["192.168.1.2", "broker.example", "[fe80::1]", "localhost.example.com", "127.0.0.1.evil.example"]
)
def test_a_password_on_a_network_without_encryption_is_a_warning(host):
    warning = BrokerConfig(url=f"mqtt://{host}", **LOGIN).password_warning()
    assert f"mqtt://{host}" in warning
    assert "mqtts://" in warning
    assert BrokerConfig(url=f"mqtts://{host}", **LOGIN).password_warning() is None
    assert BrokerConfig(url=f"mqtt://{host}").password_warning() is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost", "LOCALHOST", "broker.localhost"])
def test_a_password_for_a_broker_on_this_machine_is_no_warning(host):
    assert BrokerConfig(url=f"mqtt://{host}", **LOGIN).password_warning() is None
