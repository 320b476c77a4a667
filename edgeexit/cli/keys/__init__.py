"""`edgeexit keys`, `edgeexit keygen` and `edgeexit sign`: keys, certificates, key sets and signatures."""

from edgeexit.cli.keys.group import keys_app
from edgeexit.cli.keys.signing import keygen_command, sign_command

__all__ = ["keygen_command", "keys_app", "sign_command"]
