"""The command-line options that describe a connection to the broker, for every command that needs one."""

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgeexit.wire import BrokerConfig


_OPTIONS = {
    "ca_file": "--broker-ca",
    "certificate_file": "--broker-certificate",
    "key_file": "--broker-key",
    "key_passphrase_file": "--broker-key-passphrase-file",
    "username": "--broker-username",
    "password_file": "--broker-password-file",
    "proxy": "--broker-proxy",
    "proxy_password_file": "--broker-proxy-password-file",
}
"""Field of `BrokerConfig` -> the option that sets it."""


def with_broker_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the options of `_broker_config` in place of its parameter `broker: BrokerConfig`."""
    own = [parameter for parameter in inspect.signature(command).parameters.values() if parameter.name != "broker"]
    options = list(inspect.signature(_broker_config).parameters.values())
    names = [option.name for option in options]

    def with_options(**values: Any) -> None:
        broker = _broker_config(**{name: values.pop(name) for name in names})
        command(broker=broker, **values)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *options)]
    # typer reads the signature and the annotations to define the options.
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    with_options.__doc__ = command.__doc__
    return with_options


def _broker_config(
    broker: Annotated[
        str,
        typer.Option(help="URL of the broker: mqtt://HOST[:PORT], mqtts:// with TLS, ws:// and wss:// as WebSocket."),
    ] = "mqtt://127.0.0.1:1883",
    broker_ca: Annotated[
        str | None, typer.Option(help="PEM file: CA certificate that signed the broker's certificate.")
    ] = None,
    broker_certificate: Annotated[str | None, typer.Option(help="PEM file: certificate of this client.")] = None,
    broker_key: Annotated[str | None, typer.Option(help="PEM file: private key of that certificate.")] = None,
    broker_key_passphrase_file: Annotated[
        str | None, typer.Option(help="File with the passphrase of an encrypted private key in its first line.")
    ] = None,
    broker_username: Annotated[str | None, typer.Option(help="User name at the broker.")] = None,
    broker_password_file: Annotated[
        str | None, typer.Option(help="File with the password of the user in its first line.")
    ] = None,
    broker_proxy: Annotated[
        str | None, typer.Option(help="HTTP proxy that allows CONNECT to the broker: http://[USER@]HOST[:PORT].")
    ] = None,
    broker_proxy_password_file: Annotated[
        str | None, typer.Option(help="File with the password of the proxy's user in its first line.")
    ] = None,
) -> "BrokerConfig":
    """Return the connection that the options describe. Raises ConfigError for an invalid URL or combination."""
    from edgeexit.console import warn
    from edgeexit.errors import ConfigError
    from edgeexit.wire import BrokerConfig

    try:
        config = BrokerConfig(
            url=broker,
            ca_file=broker_ca,
            certificate_file=broker_certificate,
            key_file=broker_key,
            key_passphrase_file=broker_key_passphrase_file,
            username=broker_username,
            password_file=broker_password_file,
            proxy=broker_proxy,
            proxy_password_file=broker_proxy_password_file,
        )
    except ValueError as error:
        text = str(error)
        for field in sorted(_OPTIONS, key=len, reverse=True):
            text = re.sub(rf"(?<![-\w/@.]){field}(?![-\w.:/])", _OPTIONS[field], text)
        raise ConfigError(f"--broker: {text}") from error
    if (warning := config.password_warning()) is not None:
        warn(warning)
    return config
