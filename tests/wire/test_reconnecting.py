"""The back-off, and the version of the next connection, from how the last ones ended."""

from edgeexit.wire.reconnecting import ConnectionEnd, Ending, Reconnecting

LOST = Ending(ConnectionEnd.LOST, "reset", lasted_s=1.0)
UNANSWERED = Ending(ConnectionEnd.UNANSWERED, "closed")


def after(*endings: Ending, now: float = 0.0, reconnecting: Reconnecting | None = None) -> Reconnecting:
    reconnecting = reconnecting or Reconnecting()
    for ending in endings:
        if ending.end is ConnectionEnd.LOST:
            reconnecting.accepted()
        reconnecting.ended(ending, now=now)
    return reconnecting


def test_a_refusal_of_the_client_does_not_change_the_version():
    assert after(*[Ending(ConnectionEnd.REFUSED, "Not authorized")] * 50).version == "5"


def test_an_unreachable_broker_does_not_change_the_version():
    assert after(*[Ending(ConnectionEnd.UNREACHABLE, "refused")] * 50).version == "5"


def test_a_refusal_of_the_version_changes_it_at_once():
    assert after(Ending(ConnectionEnd.UNSUPPORTED, "Unsupported protocol version")).version == "3.1.1"


def test_two_connections_without_an_answer_change_the_version_and_ten_after_one_that_worked():
    assert after(UNANSWERED).version == "5"
    assert after(UNANSWERED, UNANSWERED).version == "3.1.1"
    assert after(LOST, *[UNANSWERED] * 9).version == "5"
    assert after(LOST, *[UNANSWERED] * 10).version == "3.1.1"


def test_one_silent_connection_changes_the_version():
    assert after(Ending(ConnectionEnd.UNANSWERED, "no answer", silent=True)).version == "3.1.1"


def test_the_client_returns_to_mqtt_5_when_a_connection_with_3_1_1_is_lost():
    reconnecting = after(UNANSWERED, UNANSWERED, LOST)
    assert reconnecting.version == "5"
    reconnecting.accepted()
    assert after(LOST, reconnecting=reconnecting).version == "5"


def test_a_return_that_fails_is_repeated_after_ten_minutes():
    reconnecting = after(UNANSWERED, UNANSWERED, LOST, UNANSWERED)
    assert reconnecting.version == "3.1.1"
    assert after(LOST, now=599.0, reconnecting=reconnecting).version == "3.1.1"
    assert after(LOST, now=600.0, reconnecting=reconnecting).version == "5"


def test_the_delay_doubles_up_to_30_s_and_starts_again_after_a_stable_connection():
    reconnecting = Reconnecting()
    delays = [reconnecting.ended(UNANSWERED, now=0.0) for _ in range(12)]
    for number, delay in enumerate(delays):
        assert min(0.5 * 2**number, 30) / 2 <= delay <= min(0.5 * 2**number, 30)
    assert reconnecting.ended(LOST, now=0.0) > 14
    assert reconnecting.ended(Ending(ConnectionEnd.LOST, "reset", lasted_s=31.0), now=0.0) <= 0.5


def test_after_a_takeover_the_delay_is_long_so_that_two_clones_do_not_fight():
    assert Reconnecting().ended(Ending(ConnectionEnd.LOST, "", lasted_s=99.0, taken_over=True), now=0.0) >= 15
