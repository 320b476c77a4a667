"""What the two threads that store messages do when a shard is lost and gained while a batch waits."""

import threading

from edgeexit_calibration.daemon.backlog import Backlog
from edgeexit_calibration.daemon.storing import Storing
from edgeexit_calibration.ingest.inbox import Inbox
from edgeexit_calibration.ingest.message_reader import ReadMessages
from edgeexit_calibration.ingest.rules import IngestRules

from edgeexit.wire import Delivery, up_topic
from tests.calibration.scenario import DEVICE, FLEET, payload_of, report_of, until

TOPIC = up_topic(DEVICE, "report")


class GainingTenure:
    """Gains the shard, which another process has served meanwhile, in the moment in which somebody looks."""

    def __init__(self) -> None:
        self.gained = 0

    @property
    def shards(self):
        self.gained += 1
        return frozenset({DEVICE.shard})

    def leases_of(self, shards):
        return tuple(shards)

    def check(self, connection, leases):
        """Hold every lease."""


def storing_with(database, tenure):
    inbox, backlog = Inbox(), Backlog(max_bytes=10**6)
    storing = Storing(database, fleet=FLEET, rules=IngestRules(), tenure=tenure, inbox=inbox, backlog=backlog)
    storing.may_store.set()
    return storing, backlog


def run_with(storing, deliveries, condition):
    """Receive messages, and store them until a condition holds."""
    stop = threading.Event()
    thread = threading.Thread(target=storing.run, args=(stop,))
    storing.receive(deliveries)
    thread.start()
    try:
        until(condition)
    finally:
        stop.set()
        thread.join()


def report(sequence):
    return Delivery(topic=TOPIC, payload=payload_of(TOPIC, report_of("b" * 64, sequence=sequence)), qos=1)


def test_a_shard_that_is_gained_while_a_batch_waits_is_read_again_before_its_messages_are_written(database):
    storing, backlog = storing_with(database, GainingTenure())
    calls = []
    forget, write = storing.intake.forget, storing.intake.write
    storing.intake.forget = lambda: (calls.append("forget"), forget())
    storing.intake.write = lambda messages, stop: (calls.append("write"), write(messages, stop))[1]
    run_with(storing, [report(1)], lambda: backlog.messages == 0 and storing.stored == 1)
    assert calls.index("forget") < calls.index("write")


def test_messages_that_cannot_be_read_are_given_up_in_their_turn_and_the_next_ones_are_stored(database):
    storing, backlog = storing_with(database, GainingTenure())
    read, failures = storing.intake.reader.read, [ValueError("a fault of the calibrator")]

    def fail_once(deliveries) -> ReadMessages:
        if failures:
            storing.receive([report(2)])
            raise failures.pop()
        return read(deliveries)

    storing.intake.reader.read = fail_once
    run_with(storing, [report(1)], lambda: backlog.messages == 0 and storing.stored == 2)
    assert failures == []
