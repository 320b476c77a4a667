"""Creates the SQLAlchemy engine of a PostgreSQL database, on which no failure of the network lasts long."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, text

from edgeexit_calibration.store.database_url import shown_url
from edgeexit_calibration.store.errors import DatabaseError

_CONNECTION: Final[dict[str, Any]] = {
    "application_name": "edgeexit-calibrator",
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Options of libpq, which an option of the URL replaces: a server that cannot be reached is an error after 10 s."""
_STATEMENT_TIMEOUT_MS: Final = 10_000
"""Shorter than what `LimitedConnection` waits for an answer."""
_IDLE_TIMEOUT_MS: Final = 10_000
"""A process that is paused inside a transaction loses its locks before its lease ends; see `leases`."""


def postgresql_engine(url: URL, *, busy_timeout_s: float) -> Engine:
    """Return an engine; it connects at the first use. Raises DatabaseError if the driver is not installed."""
    query = dict(url.query)
    own_options = query.pop("options", "")
    options = {
        "statement_timeout": _STATEMENT_TIMEOUT_MS,
        "lock_timeout": int(busy_timeout_s * 1000),
        "idle_in_transaction_session_timeout": _IDLE_TIMEOUT_MS,
        "TimeZone": "UTC",
    }
    settings = [f"-c {name}={value}" for name, value in options.items()]
    settings += [own_options] if isinstance(own_options, str) else list(own_options)
    arguments = {name: value for name, value in _CONNECTION.items() if name not in query}
    try:  # the import first: an engine copies which types psycopg can send
        from edgeexit_calibration.store.limited_connection import LimitedConnection  # noqa: PLC0415 - an extra

        engine = create_engine(
            url.set(query=query),
            connect_args={**arguments, "options": " ".join(settings).strip()},
            pool_pre_ping=True,
            pool_timeout=10,
        )
    except ImportError as error:
        raise DatabaseError(
            f"database '{shown_url(url)}' needs the Python package psycopg; install it: "
            'pip install "edgeexit[postgresql]"'
        ) from error

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: object, _record: object, positional: Any, named: Any) -> LimitedConnection:
        return LimitedConnection.connect(*positional, **named)

    return engine


@contextlib.contextmanager
def without_limits(connection: Connection) -> Iterator[None]:
    """In this block, statements and locks of PostgreSQL may take any time, e.g. in a migration."""
    if connection.dialect.name != "postgresql":
        yield
        return
    driver_connection: Any = connection.connection.driver_connection
    limit_s, driver_connection.max_wait_s = driver_connection.max_wait_s, None
    limits = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    is_local = not driver_connection.autocommit
    try:
        for name in limits:
            connection.execute(text(f"SET {'LOCAL ' if is_local else ''}{name} = 0"))
        yield
        if not is_local:
            for name in limits:
                connection.execute(text(f"RESET {name}"))
    finally:
        driver_connection.max_wait_s = limit_s
