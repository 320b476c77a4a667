"""Ends the live connection of a client whose certificate is revoked: a broker looks into its CRL at connect only."""

import tempfile
import time
from pathlib import Path
from typing import Final

from edgeexit.errors import ConfigError
from edgeexit.pki.authority_folder import AuthorityFolder
from edgeexit.pki.issued import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from edgeexit.wire import BrokerConfig, BrokerSession, SessionOptions

_CONNECT_S: Final = 15.0
_POLL_S: Final = 0.1


def disconnect(authority: AuthorityFolder, name: str, *, url: str, hold_s: float = 5.0) -> None:
    """Take over the session of a client, which ends its connection, and watch for `hold_s` that it does not return.

    The broker must use the common name as client id (`use_username_as_clientid` of mosquitto). A certificate for this
    name that is valid for minutes is used, so the private key of the client is not needed.

    Raises ConfigError if the broker cannot be reached, or if the client connects again: then the broker has not loaded
    the revocation list.
    """
    with tempfile.TemporaryDirectory(prefix="edgeexit-") as temporary:
        files = Path(temporary)
        authority.throw_away_certificate(name, files)
        config = BrokerConfig(
            url=url,
            ca_file=str(files / CA_FILE),
            certificate_file=str(files / CERTIFICATE_FILE),
            key_file=str(files / KEY_FILE),
        )
        options = SessionOptions(client_id=name, session_expiry_s=0)
        session = BrokerSession(config, options, on_message=lambda _: None)
        session.start()
        try:
            if not session.wait_connected(_CONNECT_S):
                raise ConfigError(f"cannot connect to the broker at '{url}' as '{name}': {session.last_error}")
            ends = time.monotonic() + hold_s
            while time.monotonic() < ends:
                if not session.connected:
                    raise ConfigError(
                        f"'{name}' was disconnected, but the connection that replaced it ended, too "
                        f"({session.last_error}); the client may have connected again. Copy crl.pem to the broker, "
                        "reload the broker, and repeat this command"
                    )
                time.sleep(_POLL_S)
        finally:
            session.stop()
