"""What a user decides about a device changes its row and the flags of its troubles at once."""

from datetime import datetime, timezone

import pytest
from edgeexit_calibration import (
    DeviceError,
    NameLookupError,
    approve_device,
    clear_device_clone,
    device_events,
    revoke_device,
)
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.store.tables import DeviceRow
from edgeexit_calibration.store.troubles import Trouble
from sqlalchemy import select

from edgeexit.signing import PrivateKey, key_id, public_key_text
from tests.calibration.scenario import DEVICE, audits_of, state_of, store_uplinks

NOW = datetime(2025, 1, 1, tzinfo=timezone.utc)
BY = {"user": "ada", "now": NOW}


def ingest(database, *uplinks):
    with database.writing() as session:
        store_uplinks(session, uplinks, now=NOW)


def troubles(database):
    with database.reading() as session:
        return Trouble(session.scalars(select(DeviceRow.troubles)).one())


def test_a_cleared_clone_is_no_trouble_any_more(database, bundle):
    for start, uptime_s in (("0" * 16, 1.0), ("1" * 16, 1.0), ("0" * 16, 2.0)):
        ingest(database, Uplink(DEVICE, state_of(bundle.digest, start=start, uptime_s=uptime_s)))
    assert troubles(database) == Trouble.CLONE
    assert clear_device_clone(database, DEVICE.device, **BY) == "/".join(DEVICE)
    assert troubles(database) == Trouble(0)
    with pytest.raises(DeviceError, match="no second agent"):
        clear_device_clone(database, DEVICE.device, **BY)
    assert [event.kind for event in device_events(database)][:2] == ["clone", "clone cleared"]


def test_an_approved_or_revoked_device_waits_for_nothing(database, bundle):
    first, second = (public_key_text(PrivateKey.generate().public_key()) for _ in range(2))
    audits = audits_of(bundle, 2, size=1)
    ingest(database, Uplink(DEVICE, audits[0], first))
    ingest(database, Uplink(DEVICE, audits[1], second))
    assert Trouble.KEY_CHANGED in troubles(database)
    revoke_device(database, DEVICE.device, **BY)
    assert Trouble.KEY_CHANGED not in troubles(database)
    approve_device(database, DEVICE.device, second, **BY)
    assert Trouble.KEY_CHANGED not in troubles(database)
    with pytest.raises(DeviceError, match="has not signed with key"):
        approve_device(database, DEVICE.device, key_id(PrivateKey.generate().public_key()), **BY)


def test_an_unknown_device_is_an_error_with_its_name(database):
    for action in (revoke_device, clear_device_clone):
        with pytest.raises(NameLookupError, match="device 'nobody' is unknown"):
            action(database, "nobody", **BY)
