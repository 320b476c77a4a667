"""A session that takes batches, for tests."""

from collections.abc import Callable
from typing import Any

from edgeexit.wire import BrokerConfig, BrokerSession, Delivery, SessionOptions


class BatchReceiver:
    """A session that records its batches, and acknowledges them if it should."""

    def __init__(
        self,
        url: str,
        *,
        client_id: str = "receiver",
        acknowledges: bool = True,
        ca_file: str | None = None,
        may_receive: Callable[[], bool] = lambda: True,
        **options: Any,
    ) -> None:
        self.batches: list[list[Delivery]] = []
        self._acknowledges = acknowledges
        options = {"manual_ack": True, "subscriptions": ("a/#",), "receive_maximum": 1000} | options
        self.session = BrokerSession(
            BrokerConfig(url=url, ca_file=ca_file),
            SessionOptions(client_id=client_id, **options),
            on_messages=self._record,
            may_receive=may_receive,
        )
        self.session.start()

    @property
    def received(self) -> list[Delivery]:
        return [one for batch in self.batches for one in batch]

    def _record(self, batch: list[Delivery]) -> None:
        self.batches.append(batch)
        if self._acknowledges:
            self.session.acknowledge(batch)
