"""A transaction of maintenance: it gives way to the storage of messages."""

import contextlib
from collections.abc import Iterator
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from edgeexit_calibration.store.database import Database

_LOCK_TIMEOUT_MS: Final = 200


@contextlib.contextmanager
def step(database: Database) -> Iterator[Session]:
    """Yield a session for a few rows. On PostgreSQL it is an error after 0.2 s that another process has locked them."""
    with database.writing() as session:
        if not database.is_sqlite:
            session.execute(text(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}"))
        yield session
