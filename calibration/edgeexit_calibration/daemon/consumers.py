"""The consumers of this process: one per owned shard on PostgreSQL, one for all shards on SQLite."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from edgeexit.wire import Delivery
from edgeexit.wire.session_options import DeliveryOrigin  # noqa: TC001 - the annotation of a variable
from edgeexit_calibration.daemon.consumer import Consumer

ALL_SHARDS: Final = "*"
"""Stands for all shards where one process owns them all; no shard can have this name."""
_SHARD_LEVEL: Final = 3


def shard_of(topic: str) -> str:
    """Return the level of a topic in which a shard stands; "" if there is none."""
    levels = topic.split("/", _SHARD_LEVEL + 1)
    return levels[_SHARD_LEVEL] if len(levels) > _SHARD_LEVEL else ""


class Consumers:
    """Starts and stops the consumers. Thread-safe.

    Args:
        create: returns a consumer of a shard, or of `ALL_SHARDS`.

    """

    def __init__(self, create: Callable[[str], Consumer]) -> None:
        self._create = create
        self._lock = threading.Lock()
        self._by_shard: dict[str, Consumer] = {}
        self._stopping: list[threading.Thread] = []

    @property
    def shards(self) -> set[str]:
        """The shards that are received."""
        with self._lock:
            return set(self._by_shard)

    @property
    def connected(self) -> set[str]:
        """The shards that are received and whose session is connected to the broker."""
        with self._lock:
            return {shard for shard, consumer in self._by_shard.items() if consumer.connected}

    def start(self, shard: str) -> None:
        """Start to receive a shard, unless it is received already."""
        with self._lock:
            if shard in self._by_shard:
                return
            consumer = self._by_shard[shard] = self._create(shard)
        consumer.start()

    def stop(self, shards: Iterable[str]) -> None:
        """Stop to receive shards; returns at once."""
        with self._lock:
            stopped = [self._by_shard.pop(shard) for shard in shards if shard in self._by_shard]
            self._stopping = [thread for thread in self._stopping if thread.is_alive()]
            self._stopping += [consumer.stop() for consumer in stopped]

    def join(self) -> None:
        """Wait until all that were stopped have disconnected."""
        for thread in self._stopping:
            thread.join()

    def send(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        """Send acknowledgements to devices on one of the connections; return False if there is none."""
        with self._lock:
            consumers = list(self._by_shard.values())
        return any(consumer.send(messages) for consumer in consumers)


def acknowledge(deliveries: Sequence[Delivery]) -> None:
    """Acknowledge messages to the broker, each on the connection on which it arrived."""
    parts: defaultdict[DeliveryOrigin, list[Delivery]] = defaultdict(list)
    for one in deliveries:
        if one.origin is not None:
            parts[one.origin].append(one)
    for origin, part in parts.items():
        origin.acknowledge(part)
