"""The broker's URL: scheme, default ports, no credentials; files and passwords only where they are encrypted."""

import pytest

from edgeexit.errors import ConfigError
from edgeexit.wire import BrokerConfig
from edgeexit.wire.broker_config import BrokerEndpoint, HttpProxy


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


def test_websocket_urls_have_the_ports_of_the_web_and_the_path_mqtt():
    assert BrokerConfig(url="ws://a").endpoint() == BrokerEndpoint("a", 80, tls=False, path="/mqtt")
    assert BrokerConfig(url="wss://a/").endpoint() == BrokerEndpoint("a", 443, tls=True, path="/mqtt")
    assert BrokerConfig(url="wss://a:8443/x/y").endpoint() == BrokerEndpoint("a", 8443, tls=True, path="/x/y")


@pytest.mark.parametrize(
    "url",
    ["ws://", "wss://a/a b", "wss://a/\u00e9", "wss://a/mqtt?token=secret", "mqtt://a/mqtt"],
)
def test_a_url_with_a_query_or_a_path_that_http_or_mqtt_does_not_take_is_invalid(url):
    with pytest.raises(ConfigError, match="broker url"):
        BrokerConfig(url=url).endpoint()


def test_a_proxy_has_port_3128_by_default_and_an_optional_user():
    assert BrokerConfig(proxy="http://p").http_proxy() == HttpProxy("p", 3128, None)
    assert BrokerConfig(proxy="http://my%40user@p:8080").http_proxy() == HttpProxy("p", 8080, "my@user")


@pytest.mark.parametrize("proxy", ["p:3128", "https://p", "socks5://p", "http://", "http://p/path", "http://p:x"])
def test_a_proxy_that_is_not_an_http_url_is_invalid(proxy):
    with pytest.raises(ValueError, match=r"http://\[USER@\]HOST|Port"):
        BrokerConfig(proxy=proxy)


def test_the_password_of_a_proxy_is_neither_accepted_nor_repeated():
    with pytest.raises(ValueError, match="use proxy_password_file") as caught:
        BrokerConfig(proxy="http://user:hunter2@p")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("proxy", [None, "http://p"])
def test_a_proxy_password_without_a_user_is_invalid(proxy):
    with pytest.raises(ValueError, match="proxy_password_file needs the user"):
        BrokerConfig(proxy=proxy, proxy_password_file="p.txt")  # noqa: S106


def test_a_passphrase_without_a_certificate_is_invalid():
    with pytest.raises(ValueError, match="key_passphrase_file needs certificate_file"):
        BrokerConfig(url="mqtts://a", key_passphrase_file="p.txt")  # noqa: S106


def test_a_password_over_an_unencrypted_websocket_is_warned_about():
    assert "write wss:// for TLS" in str(BrokerConfig(url="ws://a", **LOGIN).password_warning())
