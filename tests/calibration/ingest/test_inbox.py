"""The inbox is bounded by messages and bytes: the producer waits, and nothing is lost or reordered."""

import threading

from edgeexit_calibration.ingest.inbox import Inbox

from edgeexit.wire import Delivery
from tests.calibration.scenario import until


def delivery(number, size=1):
    return Delivery(topic=str(number), payload=b"x" * size)


def test_the_producer_waits_while_the_inbox_is_full_and_the_order_stays():
    for options, size in (({"max_messages": 3, "max_bytes": 1000}, 1), ({"max_messages": 100, "max_bytes": 30}, 10)):
        inbox, added = Inbox(**options), []

        def produce(inbox=inbox, added=added, size=size):
            for number in range(10):
                inbox.put(delivery(number, size))
                added.append(number)

        producer = threading.Thread(target=produce)
        producer.start()
        until(lambda added=added: len(added) == 3)
        producer.join(0.1)
        assert len(added) == 3
        taken = []
        while len(taken) < 10:
            batch = inbox.take(2, wait_s=5, quiet_s=0.001)
            assert len(batch) <= 2
            taken += [int(one.topic) for one in batch]
        producer.join(5)
        assert taken == list(range(10))


def test_many_deliveries_at_once_wait_for_room_and_keep_their_order():
    inbox = Inbox(max_messages=3, max_bytes=1000)
    producer = threading.Thread(target=inbox.put_many, args=([delivery(number) for number in range(10)],))
    producer.start()
    until(lambda: len(inbox) == 3)
    producer.join(0.1)
    assert producer.is_alive()
    assert len(inbox) == 3
    taken = []
    while len(taken) < 10:
        taken += [int(one.topic) for one in inbox.take(2, wait_s=5, quiet_s=0.001)]
    producer.join(5)
    assert taken == list(range(10))


def test_a_payload_larger_than_the_inbox_passes_an_empty_inbox():
    inbox = Inbox(max_messages=3, max_bytes=10)
    inbox.put(delivery(1, 1000))
    assert len(inbox.take(5, wait_s=1, quiet_s=0.001)) == 1


def test_closing_ends_every_wait():
    inbox = Inbox(max_messages=1, max_bytes=10)
    inbox.put(delivery(1))
    waiting = threading.Thread(target=inbox.put, args=(delivery(2),))
    waiting.start()
    inbox.close()
    waiting.join(5)
    assert not waiting.is_alive()
    assert inbox.take(5, wait_s=100, quiet_s=0.001) == []
