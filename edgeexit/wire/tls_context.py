"""The TLS settings of a connection to the broker: certificates and keys from files, which are read at every connect."""

import ssl
from collections.abc import Callable
from pathlib import Path

from edgeexit.errors import ConfigError
from edgeexit.wire.broker_config import BrokerConfig, first_line


def tls_context(config: BrokerConfig) -> ssl.SSLContext:
    """Return the TLS context of a client.

    Raises ConfigError if a file is missing, is not readable, has the wrong content, or if the private key is encrypted
    and `key_passphrase_file` is missing or wrong. Nothing is ever asked on the terminal.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if config.ca_file is None:
        context.load_default_certs()
    else:
        _check_readable("ca_file", config.ca_file)
        try:
            context.load_verify_locations(config.ca_file)
        except ssl.SSLError as error:
            raise ConfigError(f"ca_file '{config.ca_file}' contains no certificate in PEM format") from error
    if config.certificate_file is not None:
        _load_certificate(context, config, config.certificate_file)
    return context


def _load_certificate(context: ssl.SSLContext, config: BrokerConfig, certificate_file: str) -> None:
    key_file = config.key_file or certificate_file
    _check_readable("certificate_file", certificate_file)
    _check_readable("key_file", key_file)
    try:
        context.load_cert_chain(certificate_file, key_file, password=_passphrase(config, key_file))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"key_file '{key_file}' is not the key of certificate_file '{certificate_file}'"
        elif config.key_passphrase_file is not None and b"ENCRYPTED" in Path(key_file).read_bytes():
            text = f"the passphrase in key_passphrase_file '{config.key_passphrase_file}' does not open '{key_file}'"
        elif config.key_file is None:
            text = f"certificate_file '{certificate_file}' does not contain the certificate and its key; set key_file"
        else:
            text = f"certificate_file '{certificate_file}' or key_file '{key_file}' is not a PEM file of its kind"
        raise ConfigError(text) from error


def _passphrase(config: BrokerConfig, key_file: str) -> Callable[[], str]:
    """Return a function that OpenSSL calls if the key is encrypted."""

    def passphrase() -> str:
        if config.key_passphrase_file is None:
            raise ConfigError(f"key_file '{key_file}' is encrypted; set key_passphrase_file")
        return first_line("key_passphrase_file", config.key_passphrase_file)

    return passphrase


def _check_readable(field: str, path: str) -> None:
    """Raise ConfigError with the name of the file; the ssl module does not name it."""
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"cannot read {field} '{path}': {error.strerror}") from error
