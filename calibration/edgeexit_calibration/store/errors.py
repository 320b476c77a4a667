"""The error of the database, and the text that explains what a driver reports: one line without secrets."""

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import exc

from edgeexit.errors import EdgeExitError

_PROGRAMMING_ERRORS: Final = (exc.IntegrityError, exc.DataError, exc.ProgrammingError, exc.NotSupportedError)
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_ADVICE_OF_STATE: Final = {
    "08": "is the server running and reachable?",
    "25": "the server is read-only; is it a standby? Connect to the primary server",
    "28": "are the user, the password and the rules in pg_hba.conf right?",
    "3D": "create the database: CREATE DATABASE … OWNER …",
    _INSUFFICIENT_PRIVILEGE: "make the role of the calibrator the owner of the database and of its tables",
    "40": "another process wrote the same rows; try again",
    "53100": "the disk of the server is full",
    "53200": "the server is out of memory",
    "53300": "the server has too many connections; raise max_connections",
    "55P03": "another process holds a lock on these rows; try again",
    "57014": "the statement took too long, or was cancelled; try again",
    "57": "the server was stopped or is starting; try again",
}
"""SQLSTATE, or its class -> what to do."""
_ADVICE_OF_TEXT: Final = {
    "locked": "another process is writing to it; try again, or stop that process",
    "not a database": "the file is damaged or not an SQLite file; restore it, or choose another one",
    "malformed": "the file is damaged or not an SQLite file; restore it, or choose another one",
    "unable to open": "does its folder exist, and may you write to it?",
    "readonly": "does its folder exist, and may you write to it?",
    "disk is full": "free space on the disk",
    "password authentication failed": "are the user and the password right?",
    "does not exist": "create the database: CREATE DATABASE … OWNER …",
    "no password supplied": "write the password into the URL, or into ~/.pgpass",
    "connection option": "write only options of libpq after the ? of the URL",
    "connection": "is the server running and reachable?",
    "resolve host": "is the name of the server right?",
}


class DatabaseError(EdgeExitError):
    """The database cannot be opened, read or written: e.g. an invalid URL, or a locked, damaged or missing file."""


def is_outage(error: exc.SQLAlchemyError) -> bool:
    """Return True if an error is due to the database, and not to the statement, so that it may work later."""
    if isinstance(error, exc.TimeoutError):  # every connection of the pool is in use
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    if error.statement is None:  # it could not connect, or not commit
        return True
    return not isinstance(error, _PROGRAMMING_ERRORS) or _state(error.orig) == _INSUFFICIENT_PRIVILEGE


def is_contention(error: DatabaseError) -> bool:
    """Return True if a transaction failed because another one held a lock that it needed."""
    cause = error.__cause__
    orig = cause.orig if isinstance(cause, exc.DBAPIError) else None
    return _state(orig) in {"40001", "40P01", "55P03"} or "database is locked" in str(orig)


def error_text(error: exc.SQLAlchemyError, *, secrets: Iterable[str]) -> str:
    """Return what the driver reports and what to do, as one line; without the report if that contains a secret."""
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    text = " ".join(str(cause).split()) or type(cause).__name__
    advice = advise(text, _state(cause))
    if any(secret and secret in text for secret in secrets):
        text = type(cause).__name__
    return f"{text}; {advice}"


def advise(text: str, state: str = "") -> str:
    """Return what to do about an error, given the text of the driver and the SQLSTATE, if there is one."""
    for prefix in (state, state[:2]):
        if prefix in _ADVICE_OF_STATE:
            return _ADVICE_OF_STATE[prefix]
    for part, advice in _ADVICE_OF_TEXT.items():
        if part in text:
            return advice
    return "is the database reachable, and is there space on the disk?"


def _state(cause: Any) -> str:
    """Return the SQLSTATE of an error of PostgreSQL, or an empty string."""
    return getattr(cause, "sqlstate", None) or ""
