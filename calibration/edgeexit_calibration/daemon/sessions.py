"""The sessions of a calibrator at the broker.

On PostgreSQL a process has a durable session per shard, and the leader has one more. On SQLite one session does all,
because a broker may give each client certificate one client id only.
"""

from collections.abc import Callable
from typing import Final

from edgeexit.wire import BrokerSession, Delivery, SessionOptions, presence_topic, state_filter, uplink_filter
from edgeexit_calibration.daemon.client_ids import consumer_client_id, leader_client_id
from edgeexit_calibration.daemon.leader import Leader, own_topics
from edgeexit_calibration.daemon.service_config import ServiceConfig

_DURABLE_S: Final = 24 * 3600
_WILL_DELAY_S: Final = 5
"""With one client id per user, a second calibrator ends the connection of the first one; it must see its presence."""

Receive = Callable[[list[Delivery]], None]


def shard_session(
    config: ServiceConfig,
    installation: str,
    shard: str,
    *,
    receive: Receive,
    may_connect: Callable[[], bool],
    may_receive: Callable[[], bool],
) -> BrokerSession:
    """Return the session that receives a shard; another process that connects with the same id continues it."""
    options = SessionOptions(
        client_id=consumer_client_id(config.fleet, installation, shard),
        subscriptions=(uplink_filter(config.fleet, shard),),
        session_expiry_s=_DURABLE_S,
        manual_ack=True,
        receive_maximum=config.max_unstored,
        max_unacked_bytes=config.max_unstored_bytes,
    )
    return BrokerSession(config.broker, options, on_messages=receive, may_connect=may_connect, may_receive=may_receive)


def only_session(
    config: ServiceConfig,
    installation: str,
    *,
    receive: Receive,
    on_connect: Callable[[], None],
    may_connect: Callable[[], bool],
    may_receive: Callable[[], bool],
) -> BrokerSession:
    """Return the session that receives all shards and publishes."""
    options = SessionOptions(
        client_id=consumer_client_id(config.fleet, installation, None),
        subscriptions=(*own_topics(config.fleet), uplink_filter(config.fleet)),
        session_expiry_s=_DURABLE_S,
        manual_ack=True,
        receive_maximum=config.max_unstored,
        max_unacked_bytes=config.max_unstored_bytes,
        will=(presence_topic(config.fleet), b""),
        will_delay_s=_WILL_DELAY_S,
    )
    return BrokerSession(
        config.broker,
        options,
        on_messages=receive,
        on_connect=on_connect,
        may_connect=may_connect,
        may_receive=may_receive,
    )


def leader_session(
    config: ServiceConfig, installation: str, *, leader: Callable[[], Leader], may_connect: Callable[[], bool]
) -> BrokerSession:
    """Return the session that publishes and finds shards; `leader` is called after the session has started."""

    def receive(delivery: Delivery) -> None:
        if not leader().receive(delivery.topic, delivery.payload):
            leader().find_shard(delivery.topic)

    options = SessionOptions(
        client_id=leader_client_id(config.fleet, installation),
        subscriptions=(*own_topics(config.fleet), state_filter(config.fleet)),
        session_expiry_s=0,
        will=(presence_topic(config.fleet), b""),
    )
    return BrokerSession(
        config.broker,
        options,
        on_message=receive,
        on_connect=lambda: leader().reconnected(),
        may_connect=may_connect,
    )
