"""The broker's URL: scheme, default ports, no credentials."""

import pytest

from edgeexit.errors import ConfigError
from edgeexit.wire import BrokerConfig


@pytest.mark.parametrize("url", ["localhost", "http://localhost:1883", "mqtt://", "mqtt://host:port"])
def test_a_url_that_is_not_an_mqtt_url_is_refused(url):
    with pytest.raises(ConfigError, match="broker url"):
        BrokerConfig(url=url).endpoint()


def test_a_url_with_credentials_is_refused_and_the_error_does_not_repeat_them():
    with pytest.raises(ValueError, match="password_file") as refused:
        BrokerConfig(url="mqtt://user:secret@host")
    assert "secret" not in str(refused.value)


def test_the_default_port_is_1883_without_and_8883_with_tls():
    assert BrokerConfig(url="mqtt://a").endpoint() == ("a", 1883, False)
    assert BrokerConfig(url="mqtts://a").endpoint() == ("a", 8883, True)
