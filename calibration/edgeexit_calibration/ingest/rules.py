"""Which devices and which audits a calibrator stores."""

import msgspec

from edgeexit_calibration.ingest.enrolment import Enrolment
from edgeexit_calibration.ingest.quotas import Quotas


class IngestRules(msgspec.Struct, frozen=True, kw_only=True):
    """Which devices and which audits are stored."""

    enrolment: Enrolment = "open"
    quotas: Quotas = Quotas()
