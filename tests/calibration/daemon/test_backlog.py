"""How much a process receives and stores at once."""

from edgeexit_calibration.daemon.backlog import Backlog, BatchLimit

from edgeexit.wire import Delivery


def test_the_backlog_counts_messages_until_they_are_stored_whatever_connection_they_came_from():
    backlog = Backlog(max_bytes=3000)
    first, second = ([Delivery(topic="t", payload=bytes(1000), packet_id=one)] for one in (1, 2))
    backlog.add(first)
    assert backlog.has_room
    backlog.add(second)
    assert not backlog.has_room
    backlog.remove(first)
    assert backlog.has_room


def test_empty_messages_fill_the_backlog_too():
    backlog = Backlog(max_bytes=1_000_000)
    backlog.add([Delivery(topic="t", payload=b"")] * 10_000)
    assert not backlog.has_room


def test_batches_of_a_slow_database_become_short_and_grow_again_when_it_is_fast():
    limit, sizes = BatchLimit(), []
    for per_message_s in [0.004] * 10 + [0.00001] * 10:
        sizes.append(limit.messages)
        limit.record(limit.messages, limit.messages * per_message_s)
    assert sizes[0] == sizes[-1] == 4000
    assert sizes[9] * 0.004 <= 2.0


def test_a_slow_disk_does_not_make_batches_tiny_and_small_batches_change_nothing():
    limit = BatchLimit()
    for _ in range(20):
        limit.record(limit.messages, 4.0)
    slow = limit.messages
    assert slow >= 250
    limit.record(1, 0.001)
    assert limit.messages == slow
