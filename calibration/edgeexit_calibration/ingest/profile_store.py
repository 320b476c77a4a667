"""Stores the latency profiles of devices: the newest one per bundle, of the newest bundles."""

from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgeexit.latency import LatencyProfile
from edgeexit_calibration.store.tables import ProfileRow


def store_profile(session: Session, device_id: int, profile: LatencyProfile, *, limit: int, now: datetime) -> bool:
    """Store a profile; delete the oldest ones above `limit`. Returns False if it is stored already."""
    content = msgspec.json.encode(profile).decode()
    rows = session.scalars(select(ProfileRow).filter_by(device_id=device_id).order_by(ProfileRow.received_at)).all()
    row = next((row for row in rows if row.bundle == profile.bundle), None)
    if row is None:
        for oldest in rows[: max(0, len(rows) + 1 - limit)]:
            session.delete(oldest)
        session.add(ProfileRow(device_id=device_id, bundle=profile.bundle, content=content, received_at=now))
        session.flush()
    elif row.content != content:
        row.content, row.received_at = content, now
    else:
        return False
    return True
