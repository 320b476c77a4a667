"""The inbox gives batches in the order of arrival, as large as what has arrived."""

import threading

from edgeexit_calibration.ingest.inbox import Inbox

from edgeexit.wire import Delivery


def deliveries(*numbers):
    return [Delivery(topic=str(number), payload=b"") for number in numbers]


def taken(inbox, limit, **options):
    return [int(one.topic) for one in inbox.take(limit, **{"wait_s": 5, "quiet_s": 0.001, **options})]


def test_batches_are_bounded_and_keep_the_order():
    inbox = Inbox()
    inbox.put(deliveries(0, 1))
    inbox.put(deliveries(2, 3, 4))
    assert len(inbox) == 5
    assert [taken(inbox, 2), taken(inbox, 2), taken(inbox, 2)] == [[0, 1], [2, 3], [4]]


def test_a_batch_waits_for_the_first_message_and_for_those_that_follow_at_once():
    inbox = Inbox()
    later = [threading.Timer(delay_s, inbox.put, (deliveries(number),)) for delay_s, number in ((0.05, 1), (0.1, 2))]
    for timer in later:
        timer.start()
    assert taken(inbox, 10, quiet_s=2.0, wait_s=2.0) == [1, 2]


def test_without_messages_a_batch_is_empty():
    assert taken(Inbox(), 5, wait_s=0.01) == []


def test_closing_ends_every_wait_and_discards_what_comes_later():
    inbox = Inbox()
    batches = []
    waiting = threading.Thread(target=lambda: batches.append(taken(inbox, 5, wait_s=100)))
    waiting.start()
    inbox.close()
    waiting.join(5)
    assert batches == [[]]
    inbox.put(deliveries(1))
    assert len(inbox) == 0
