"""The tables of the processes that share a database: leases, the name of the installation, its maintenance."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from edgeexit_calibration.store.table_base import TableBase


class LeaseRow(TableBase):
    """What one process does alone until the lease ends: lead a fleet, or store the messages of a shard."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(primary_key=True)
    """`FLEET leader`, `FLEET shard SHARD` or `FLEET process ID`."""
    owner: Mapped[str]
    """16 random hex digits that a process draws at its start."""
    place: Mapped[str]
    """Host and process id of the owner, for people."""
    term: Mapped[int]
    """Increases whenever the owner changes."""
    expires_at: Mapped[float]
    """Unix time of the database in s."""


class InstallationRow(TableBase):
    """This database, as one row: client ids contain its name, so that two databases never share a session."""

    __tablename__ = "installation"

    id: Mapped[str] = mapped_column(primary_key=True)
    """16 random hex digits."""
    created_at: Mapped[datetime]


class MaintenanceRow(TableBase):
    """What the maintenance of this database found, e.g. its size."""

    __tablename__ = "maintenance"

    name: Mapped[str] = mapped_column(primary_key=True)
    details: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime]
