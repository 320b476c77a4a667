"""The consumers of this process: one per owned shard on PostgreSQL, one for all shards on SQLite."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from edgeexit.wire import Delivery
from edgeexit_calibration.daemon.consumer import Consumer

ALL_SHARDS: Final = "*"
"""Stands for all shards where one process owns them all; no shard can have this name."""
_SHARD_LEVEL: Final = 3
_One = TypeVar("_One")


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

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge messages to the broker, each on the connection on which it arrived."""
        with self._lock:
            consumers = dict(self._by_shard)
        for shard, part in _by_consumer(deliveries, consumers, lambda one: one.topic).items():
            consumers[shard].acknowledge(part)

    def send(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        """Send acknowledgements to devices; return False if some could not be sent."""
        with self._lock:
            consumers = dict(self._by_shard)
        parts = _by_consumer(messages, consumers, lambda one: one[0])
        is_sent = [consumers[shard].send(part) for shard, part in parts.items()]
        return all(is_sent) and sum(map(len, parts.values())) == len(messages)


def _by_consumer(
    items: Sequence[_One], consumers: dict[str, Consumer], topic_of: Callable[[_One], str]
) -> dict[str, Sequence[_One]]:
    """Return the items of each consumer, without those of shards that are not received any more."""
    if ALL_SHARDS in consumers:
        return {ALL_SHARDS: items}
    parts: defaultdict[str, list[_One]] = defaultdict(list)
    for item in items:
        shard = shard_of(topic_of(item))
        if shard in consumers:
            parts[shard].append(item)
    return dict(parts)
