"""Reads the URL of a database, and shows it without secrets."""

from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from sqlalchemy import URL, exc, make_url

from edgeexit_calibration.store.errors import DatabaseError

DatabaseKind = Literal["sqlite", "postgresql"]

_DRIVERS: Final = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
"""Scheme of a URL -> database and driver."""
_OPEN_OPTIONS: Final = {
    "application_name", "channel_binding", "connect_timeout", "dbname", "host", "hostaddr", "mode", "port", "sslmode",
    "sslrootcert", "target_session_attrs", "uri", "user",
}  # fmt: skip
"""Options that contain no secret."""


def parse_url(url: str) -> URL:
    """Return a URL, or the path of an SQLite file, as SQLAlchemy's URL with a driver that the calibrator supports.

    Raises DatabaseError. Its text contains no part of a password, even if the password is not escaped as it must be.
    """
    if "://" not in url:
        return URL.create("sqlite", database=url)
    scheme, _, rest = url.partition("://")
    if scheme not in _DRIVERS:
        kind = scheme.partition("+")[0]
        if scheme and kind not in {"sqlite", "postgresql"}:
            raise DatabaseError(f"unknown database type '{kind}'; use sqlite or postgresql")
        if scheme:
            raise DatabaseError(f"unknown database driver '{scheme}'; write {kind}://")
        raise _invalid(url)
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        raise _invalid(url) from error
    if kind_of(parsed) == "sqlite":
        if parsed.host is not None or parsed.username is not None:
            raise _invalid(url)
        if parsed.database in {None, "", ":memory:"}:
            raise DatabaseError(f"database '{shown_url(parsed)}' has no file name; write sqlite:///calibrator.sqlite")
    elif "@" in f"{parsed.host}{parsed.database}" or ("@" in rest and parsed.host is None and not parsed.query):
        raise DatabaseError(
            f"database '{scheme}://***' is not a valid URL: write @ as %40, / as %2F and : as %3A in the user name and "
            "the password"
        )
    return parsed.set(drivername=_DRIVERS[scheme])


def kind_of(url: URL) -> DatabaseKind:
    """Return the kind of the database of a URL."""
    return "sqlite" if url.get_backend_name() == "sqlite" else "postgresql"


def sqlite_file(url: URL) -> Path:
    """Return the path of an SQLite database."""
    name = str(url.database)
    return Path(unquote(urlsplit(name).path) if name.startswith("file:") else name)


def shown_url(url: URL) -> str:
    """Return a URL for messages: without the password and without options, which may contain a password too."""
    shown = url.set(query={}, drivername=kind_of(url), password=None).render_as_string()
    if any(secret in shown for secret in secrets_of(url)):
        return f"{kind_of(url)}://***"  # e.g. the user name is the password
    return shown


def secrets_of(url: URL) -> list[str]:
    """Return what no message may contain: the password, and every option that may contain one."""
    found = [] if url.password is None else [str(url.password)]
    for name, value in url.query.items():
        if name not in _OPEN_OPTIONS:
            found += [name, *([value] if isinstance(value, str) else value)]
    return [secret for secret in found if secret]


def _invalid(url: str) -> DatabaseError:
    """Return the error for a URL that cannot be parsed; it may still contain a password."""
    scheme, _, rest = url.partition("://")
    shown = f"{scheme}://***" if "@" in rest or "?" in rest else url
    return DatabaseError(f"database '{shown}' is not a valid URL; write e.g. sqlite:///calibrator.sqlite")
