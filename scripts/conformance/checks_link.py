"""Checks of the connection: state, will, session, and what happens when the connection ends."""

from bench import Bench, FailedError, SkippedError, check
from broker_client import MQTT_311, speaks

from edgeexit.errors import MessageError
from edgeexit.wire import Report, State, decode, up_topic

_MQTT5 = 5
_VERSIONS = {3: "3.1", 4: "3.1.1", 5: "5"}


@check("link", "state", "After it has connected, the client publishes a valid state with `online` true, retained.")
def _state(bench: Bench) -> str:
    found = bench.wait_state(lambda found: found.online, "a state with online true")
    stored = [seen.message for seen in bench.calibrator.retained() if isinstance(seen.message, State)]
    if not stored:
        raise FailedError("the broker has stored no state: it is not retained")
    invalid = [seen.error for seen in bench.calibrator.seen if seen.error]
    if invalid:
        raise FailedError(f"the client sent an invalid message: {invalid[0]}")
    return f"agent {found.agent}, policy {found.policy}, revision {found.revision}"


@check(
    "link",
    "session",
    "The client connects with a clean session and a will: its state with `online` false, retained, QoS 1.",
)
def _session(bench: Bench) -> str:
    topic = up_topic(bench.calibrator.address, "state")
    wills = [connect for connect in bench.proxy.connects if connect.will_topic is not None]
    if not wills:
        raise FailedError("no CONNECT had a will")
    will = wills[-1]
    if will.will_topic != topic:
        raise FailedError(f"the will is for topic '{will.will_topic}', not '{topic}'")
    if will.will_qos != 1 or not will.will_retained:
        raise FailedError(f"the will has QoS {will.will_qos} and retain {will.will_retained}, not QoS 1 and retain")
    try:
        content = decode(will.will_payload, State)
    except MessageError as error:
        raise FailedError(f"the will is not a valid state: {error}") from error
    if content.online:
        raise FailedError("the will has online true")
    if not will.clean:
        raise FailedError("the session is not clean")
    return f"MQTT {_VERSIONS.get(will.version, will.version)}, client id '{will.client_id}'"


@check("link", "qos", "Every uplink message has QoS 1.")
def _qos(bench: Bench) -> None:
    for seen in bench.calibrator.seen:
        if seen.qos == 0:
            raise FailedError(f"a message of kind '{seen.kind}' has QoS 0")


@check("link", "will", "When its connection breaks, the broker publishes the will of the client.")
def _will(bench: Bench) -> None:
    index = len(bench.calibrator.seen)
    bench.proxy.open = False
    bench.proxy.cut()
    try:
        bench.wait(
            lambda: [s for s in bench.calibrator.since(index, State) if not s.online], "a state with online false"
        )
    finally:
        bench.proxy.open = True


@check(
    "link",
    "reconnect",
    "The client connects again by itself, publishes its state, and keeps its start and its counters.",
)
def _reconnect(bench: Bench) -> None:
    calibrator = bench.calibrator
    before = calibrator.current().start
    reports = [report for report in calibrator.since(0, Report) if report.start == before]
    found = bench.wait_state(lambda state: state.online, "a state with online true", 40)
    if found.start != before:
        raise FailedError(
            f"the start changed from {before} to {found.start}, although the client was not started again"
        )
    report = bench.next_report("a report after the connection")
    lower = [old for old in reports if (old.start, old.revision) == (report.start, report.revision)]
    if lower and lower[-1].exits[0].reached > report.exits[0].reached:
        raise FailedError("the counters are lower than before the connection ended")


@check("link", "mqtt-3.1.1", "If the broker does not speak MQTT 5, the client connects with MQTT 3.1.1.", core=False)
def _mqtt_311(bench: Bench) -> str:
    if all(connect.version != _MQTT5 for connect in bench.proxy.connects):
        return "the client speaks MQTT 3.1.1 only"
    if not speaks(bench.broker, MQTT_311):
        raise SkippedError("the broker does not speak MQTT 3.1.1 at this address")
    count = len(bench.proxy.connects)
    bench.proxy.refuse_mqtt5 = True
    bench.proxy.cut()
    bench.wait_state(lambda state: not state.online, "a state with online false")
    try:
        fell_back = bench.calibrator.wait(lambda: any(c.version != _MQTT5 for c in bench.proxy.connects[count:]), 20)
    finally:
        bench.proxy.refuse_mqtt5 = False
    if not fell_back:
        raise SkippedError("the client speaks MQTT 5 only")
    bench.wait_state(lambda state: state.online, "a state with online true")
    return "it fell back to 3.1.1"
