"""Which revisions' audits are used: after an alarm, only those of policies that were issued after it.

A device that was offline sends audits late. An audit of a revision that was issued before an alarm can have been drawn
before the change that raised it, whenever it arrives; an audit of a later revision cannot.
"""

from typing import Final

import msgspec


class UsedRevisions(msgspec.Struct, frozen=True, kw_only=True):
    """The lowest revision whose audits are used, before and after an alarm."""

    until: int = 0
    """Id of the audit that raised the alarm."""
    lowest: int = 0
    """Lowest revision of audits with ids up to `until`. They choose paths, but they certify nothing."""
    lowest_after: int = 0
    """Lowest revision of audits with higher ids."""

    def after_alarm(self, audit_id: int, revision: int) -> "UsedRevisions":
        """Return what is used after the alarm of an audit; `revision` is the one that was issued because of it."""
        return UsedRevisions(until=audit_id, lowest=self.lowest_after, lowest_after=revision)


ALL_REVISIONS: Final = UsedRevisions()
