"""A real mosquitto with the files of `edgeexit keys fleet`: who can do what, and how a revoked client is locked out."""

import logging
import socket
import ssl
import threading
from contextlib import contextmanager
from datetime import timedelta

import msgspec
import paho.mqtt.client as paho
import pytest
from cryptography.hazmat.primitives import serialization
from edgeexit_calibration import CalibratorService, ServiceConfig, devices, register, send_command
from edgeexit_calibration.store.shards import add_shards

from edgeexit.agent import Agent, AgentConfig
from edgeexit.errors import ConfigError
from edgeexit.pki import AuthorityFolder, FleetPlan, create_fleet
from edgeexit.pki.broker_files import mosquitto_acl, mosquitto_conf
from edgeexit.pki.certificates import Authority, create_authority, create_key, issue_certificate, utc_now
from edgeexit.pki.disconnect import disconnect
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.signing import encode_private_key, load_private_key
from edgeexit.wire import BrokerConfig, BrokerSession, SessionOptions
from tests.bundles import make_bundle, make_samples
from tests.calibration.fleet_broker import WAIT_S, FleetBroker, FleetClient, client_context
from tests.calibration.scenario import until

ROOT = "edgeexit/v1/shop"
KINDS = ("state", "report", "audit", "profile")
PLAN = FleetPlan(fleet="shop", hosts=("localhost", "127.0.0.1"), devices=("A", "B", "C", "D", "E"))
LAST = f"{ROOT}/policy/last/last"
"""Everybody may read this topic, so a message on it shows that no earlier one is still on its way."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    with AuthorityFolder(folder, create=True) as authority:
        create_fleet(authority, PLAN)
    return folder


@pytest.fixture(scope="module")
def broker(keys, tmp_path_factory):
    broker = FleetBroker(keys, tmp_path_factory.mktemp("mosquitto"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def client(keys, broker):
    """Return a function that makes the client with the certificate in a folder of the fleet."""

    def make(folder, **options):
        files = None if folder is None else keys / folder
        return FleetClient(broker, keys / "ca" / "ca.crt", files, **options)

    return make


def test_a_device_publishes_the_four_kinds_below_its_own_name_and_nothing_else(client):
    with client("devices/A") as device:
        assert [kind for kind in KINDS if device.publish(f"{ROOT}/s0/A/up/{kind}")] == list(KINDS)
        others = [f"{ROOT}/s0/B/up/{kind}" for kind in KINDS]
        others += [f"{ROOT}/s0/{name}/down/{kind}" for name in "AB" for kind in ("ack", "policy", "command")]
        others += [f"{ROOT}/s0/A/up/other", f"{ROOT}/s0/A/up/state/more", f"{ROOT}/s0/A/up", f"{ROOT}/s1/A/up/state"]
        others += [f"{ROOT}/policy/d/c", f"{ROOT}/heartbeat/d/c", f"{ROOT}/keys", "edgeexit/v1/other/s0/A/up/state"]
        others += ["elsewhere", "edgeexit", f"{ROOT}/s0/a/up/state", f"{ROOT}/policy/A/up/state"]
        assert [topic for topic in others if device.publish(topic, retain=True)] == []


def test_a_device_receives_only_what_is_for_it_or_for_all_devices(client):
    with client("devices/A") as device, client("devices/B") as other, client("calibrator") as calibrator:
        device.subscribe("#", f"{ROOT}/s0/B/down/#", f"{ROOT}/+/+/down/ack", f"{ROOT}/+/+/up/#", "$SYS/#")
        other.subscribe(f"$share/calibrator/{ROOT}/+/+/up/#")
        for topic in ("s0/B/down/ack", "s0/A/down/ack", "policy/d/c", "heartbeat/d/c", "keys", "s0/B/down/policy"):
            assert calibrator.publish(f"{ROOT}/{topic}")
        for kind in KINDS:
            assert other.publish(f"{ROOT}/s0/B/up/{kind}")
        assert calibrator.publish(LAST)
        received = {topic.removeprefix(f"{ROOT}/") for topic in device.topics_until(LAST)}
        assert received == {"s0/A/down/ack", "policy/d/c", "heartbeat/d/c", "keys"}
        assert other.received.empty()


def test_with_mqtt_3_a_forbidden_message_is_dropped_too(client):
    """MQTT 3.1.1 has no reason codes, so the broker acknowledges what it drops."""
    with client("devices/A", protocol=paho.MQTTv311) as device, client("calibrator") as calibrator:
        calibrator.subscribe(f"{ROOT}/+/+/up/#")
        device.publish(f"{ROOT}/s0/B/up/report")
        device.publish(f"{ROOT}/s0/A/up/report", b"last")
        received = []
        while not received or received[-1][1] != b"last":
            received.append(calibrator.received.get(timeout=WAIT_S))
        assert f"{ROOT}/s0/B/up/report" not in [topic for topic, _ in received]


def test_the_calibrator_has_the_rights_that_it_needs_and_no_more(client):
    with client("calibrator") as calibrator, client("operator") as operator, client("devices/A") as device:
        allowed = ["s0/A/down/ack", "s0/A/down/policy", "policy/d/c", "heartbeat/d/c", "keys"]
        refused = ["s0/A/down/command", "s0/A/down/x", "policy/d", "policy/d/c/e", "keys/x", "x/y"]
        refused += [f"s0/A/up/{kind}" for kind in KINDS]
        assert [topic for topic in (*allowed, *refused) if calibrator.publish(f"{ROOT}/{topic}")] == allowed
        assert not calibrator.publish("edgeexit/v1/other/policy/d/c")
        calibrator.subscribe("#")
        for kind in KINDS:
            device.publish(f"{ROOT}/s0/A/up/{kind}")
        operator.publish(f"{ROOT}/s0/A/down/command")
        assert device.publish(f"{ROOT}/s0/A/up/state", b"last")
        received = [calibrator.received.get(timeout=WAIT_S) for _ in range(5)]
        assert [topic for topic, _ in received] == [f"{ROOT}/s0/A/up/{kind}" for kind in (*KINDS, "state")]


def test_the_operator_sends_commands_and_reads_states_and_nothing_else(client):
    with client("operator") as operator, client("devices/A") as device:
        topics = ["s0/A/down/command", "s0/A/down/ack", "s0/A/down/policy", "policy/d/c", "heartbeat/d/c", "keys"]
        topics += [f"s0/A/up/{kind}" for kind in KINDS]
        assert [topic for topic in topics if operator.publish(f"{ROOT}/{topic}")] == ["s0/A/down/command"]
        operator.subscribe(f"{ROOT}/+/+/up/#")
        for kind in (*KINDS, "state"):
            device.publish(f"{ROOT}/s0/A/up/{kind}")
        states = [operator.received.get(timeout=WAIT_S)[0] for _ in range(2)]
        assert states == [f"{ROOT}/s0/A/up/state"] * 2


def test_a_client_without_a_certificate_of_this_authority_gets_nothing(client, keys, broker, tmp_path):
    ca = keys / "ca" / "ca.crt"
    assert not client(None).connects()
    now = utc_now()
    other = create_authority("EdgeExit shop", create_key(), now=now)
    assert not FleetClient(broker, ca, issued(other, tmp_path / "other", now=now)).connects()
    real = authority_of(keys)
    ended = issued(real, tmp_path / "ended", now=now - timedelta(days=366))
    assert not FleetClient(broker, ca, ended).connects()
    assert not client("broker").connects(), "the certificate of a server is none of a client"
    impostor = FleetBroker(keys, tmp_path / "impostor")
    for path in ("ca.crt", "tls.crt", "tls.key", "crl.pem", "edgeexit.acl"):
        (tmp_path / "impostor" / path).write_bytes((keys / "broker" / path).read_bytes())
    files = issued(real, tmp_path / "as-a-server", now=now)
    config = tmp_path / "impostor" / "mosquitto.conf"
    config.write_text(config.read_text().replace(f"{keys}/broker/tls", f"{files}/tls"))
    impostor.start()
    try:
        assert not FleetClient(impostor, ca, keys / "devices" / "A").connects(), "a device cannot act as the broker"
    finally:
        impostor.stop()


def test_a_certificate_that_the_acl_does_not_know_can_only_act_as_its_own_name(client, keys, tmp_path):
    files = issued(authority_of(keys), tmp_path / "x", now=utc_now(), name="stranger")
    with client(files) as stranger:
        assert not any(stranger.publish(f"{ROOT}/{topic}") for topic in ("policy/d/c", "keys", "s0/A/up/state"))


def test_a_client_cannot_take_the_session_of_another_one(client):
    with client("devices/B") as other, client("devices/A", client_id="B") as device:
        assert other.publish(f"{ROOT}/s0/B/up/state")
        assert device.publish(f"{ROOT}/s0/A/up/state")
        assert not other.ended.is_set()


def test_the_will_of_a_device_cannot_be_a_message_of_another_one(client):
    with client("calibrator") as calibrator, client("devices/B") as other:
        calibrator.subscribe(f"{ROOT}/+/+/up/#")
        device = client("devices/A", will=(f"{ROOT}/s0/B/up/state", b"forged"))
        if device.connects():
            device._client.socket().close()
            device._client.loop_stop()
        other.publish(f"{ROOT}/s0/B/up/state", b"own")
        assert calibrator.received.get(timeout=WAIT_S)[1] == b"own"


@contextmanager
def session(broker, keys, files, subscriptions=()):
    received = []
    arrived = threading.Event()

    def on_message(delivery):
        received.append(delivery.topic)
        arrived.set()

    options = SessionOptions(client_id="any", session_expiry_s=0, subscriptions=subscriptions)
    one = BrokerSession(with_files(broker, keys, files), options, on_message=on_message)
    one.start()
    try:
        yield one, received, arrived
    finally:
        one.stop()


def test_a_revoked_device_is_refused_and_loses_its_connection_and_the_others_keep_theirs(client, keys, broker):
    ca = keys / "ca" / "ca.crt"
    with client("devices/D") as stolen, client("devices/B") as other:
        with AuthorityFolder(keys) as authority:
            authority.revoke("D")
            aside = next((keys / "revoked").iterdir())
            # The session stands for an agent, which connects again whenever it is disconnected.
            with pytest.raises(ConfigError, match=r"Copy crl\.pem to the broker"), session(broker, keys, aside):
                disconnect(authority, "D", url=broker.url, hold_s=5)
            assert stolen.ended.wait(WAIT_S)
        broker.reload()
        assert not FleetClient(broker, ca, aside).connects()
        assert other.publish(f"{ROOT}/s0/B/up/state")


def test_a_revoked_device_cannot_resume_a_tls_session(keys, broker):
    """A resumed session needs no certificate."""
    context = client_context(keys / "ca" / "ca.crt", keys / "devices" / "E")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, saved = connect_over(broker, context, None)
    assert connect_over(broker, context, saved)[0], "the broker resumes sessions"
    with AuthorityFolder(keys) as authority:
        authority.revoke("E")
    broker.reload()
    assert not connect_over(broker, context, saved)[0]


def connect_over(broker, context, saved):
    """Connect, with a saved TLS session if there is one; return whether the broker accepts, and the TLS session."""
    packet = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01z"  # CONNECT of MQTT 3.1.1
    with socket.create_connection(("localhost", broker.port)) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost", session=saved) as secure:
                secure.sendall(packet)
                accepted = secure.recv(4)[3:] == b"\0"
                return accepted and secure.session_reused == (saved is not None), secure.session
        except OSError:
            return False, None


def test_the_connection_of_a_revoked_device_survives_the_reload_and_ends_with_disconnect(client, keys, broker):
    with client("devices/C") as stolen, client("devices/B") as other:
        with AuthorityFolder(keys) as authority:
            authority.revoke("C")
            broker.reload()
            (aside,) = [folder for folder in (keys / "revoked").iterdir() if folder.name.startswith("C-")]
            again = FleetClient(broker, keys / "ca" / "ca.crt", aside)
            assert not again.connects()
            assert stolen.publish(f"{ROOT}/s0/C/up/state"), "mosquitto looks into the list only at connect"
            disconnect(authority, "C", url=broker.url, hold_s=0.5)
        assert stolen.ended.wait(WAIT_S)
        assert other.publish(f"{ROOT}/s0/B/up/state")
        assert not other.ended.is_set()


def test_sessions_of_an_agent_and_the_calibrator_work_through_the_broker(keys, broker):
    with (
        session(broker, keys, keys / "devices" / "A", (f"{ROOT}/s0/A/down/#",)) as (device, _, acked),
        session(broker, keys, keys / "calibrator", (f"{ROOT}/+/+/up/#",)) as (calibrator, received, arrived),
    ):
        assert device.wait_connected(WAIT_S), device.last_error
        assert calibrator.wait_connected(WAIT_S), calibrator.last_error
        # A message that overtakes the subscription is lost, so it is sent again.
        assert any(device.publish(f"{ROOT}/s0/A/up/report", b"x" * 200_000) and arrived.wait(1) for _ in range(10))
        assert any(calibrator.publish(f"{ROOT}/s0/A/down/ack", b"x") and acked.wait(1) for _ in range(10))
        assert f"{ROOT}/s0/A/up/report" in received
        assert device.max_payload(f"{ROOT}/s0/A/up/audit") > 256 * 1024


def test_the_listener_for_websockets_has_the_same_rules(keys, tmp_path):
    broker = FleetBroker(keys, tmp_path / "mosquitto", websockets=True)
    try:
        broker.start()
    except AssertionError as error:
        if "WebSockets" in str(error) or "websockets" in str(error):
            pytest.skip("this mosquitto is built without WebSockets")
        raise
    broker.url = f"wss://localhost:{broker.websocket_port}"
    try:
        with session(broker, keys, keys / "devices" / "A") as (device, _, _):
            assert device.wait_connected(WAIT_S), device.last_error
            own, other = (device.publish(f"{ROOT}/s0/{name}/up/state", b"x") for name in "AB")
            until(lambda: own.done and other.done)
            assert own.acked
            assert other.refused is not None
        without = BrokerConfig(url=broker.url, ca_file=str(keys / "ca" / "ca.crt"))
        stranger = BrokerSession(without, SessionOptions(client_id="A"), on_message=lambda _: None)
        stranger.start()
        until(lambda: "certificate" in (stranger.last_error or ""))
        assert not stranger.connected
        stranger.stop()
    finally:
        broker.stop()


def test_the_agent_and_the_calibrator_work_with_these_keys(client, keys, broker, database, tmp_path, caplog):
    """The real ones: the key set, the policy, the heartbeat, audits, their acknowledgement, and a command."""
    bundle = make_bundle(tmp_path / "bundle")
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.5, 0.5))
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=1, policy=policy))
    register(database, bundle, fleet="shop", cohort="default", risk=0.9, delta=0.1, user="ada")
    login = with_files(broker, keys, keys / "calibrator")
    config = ServiceConfig(
        fleet="shop",
        broker=login if database.is_sqlite else msgspec.structs.replace(login, url=broker.calibrators_url),
        check_interval_s=0.1,
        key_set=keys / "calibrator" / "key_set.json",
    )
    caplog.set_level(logging.INFO)
    stop = threading.Event()
    service = CalibratorService(database, config, [load_private_key(keys / "calibrator" / "policy.key")])
    if not database.is_sqlite:
        with database.writing() as writing:
            add_shards(writing, "shop", ["s0"], now=utc_now())
    thread = threading.Thread(target=service.run, args=(stop,))
    thread.start()
    until(lambda: service.connected)
    loaded = AgentConfig.load(keys / "devices" / "B" / "agent.toml", broker=broker.url)
    agent_config = msgspec.structs.replace(
        loaded, state_dir=tmp_path / "state", audit_fraction=1.0, report_interval_s=0.2
    )
    try:
        with Agent(bundle, agent_config) as agent:
            until(lambda: agent.active.revision == 1)
            agent.infer(make_samples(8))
            until(lambda: [view.key is not None for view in devices(database)] == [True])
            until(lambda: agent.unacknowledged == 0)
            command_key = load_private_key(keys / "operator" / "command.key")
            operator = with_files(broker, keys, keys / "operator")
            send_command(operator, agent_config.address, "report", keys=[command_key])
            until(lambda: "received the command 'report'" in caplog.text)
            assert "key set version 1 is used" in caplog.text
            assert (devices(database)[0].problems, devices(database)[0].rejected) == ((), None)
        with client("devices/A") as device:
            device.subscribe(f"{ROOT}/#")
            until(lambda: device.received.qsize() >= 3)
            retained = {device.received.get()[0] for _ in range(3)}
        names = {"keys", f"policy/{bundle.digest}/default", f"heartbeat/{bundle.digest}/default"}
        assert {topic.removeprefix(f"{ROOT}/") for topic in retained} == names
    finally:
        stop.set()
        thread.join(10)


def with_files(broker, keys, files):
    return BrokerConfig(
        url=broker.url,
        ca_file=str(keys / "ca" / "ca.crt"),
        certificate_file=str(files / "tls.crt"),
        key_file=str(files / "tls.key"),
    )


def test_the_example_files_are_those_that_the_command_writes(request):
    folder = request.config.rootpath / "calibration" / "deploy"
    assert (folder / "mosquitto.conf").read_text() == mosquitto_conf("FLEET")
    assert (folder / "edgeexit.acl").read_text() == mosquitto_acl("FLEET")


def authority_of(keys):
    with AuthorityFolder(keys) as folder:
        return folder._load_authority()


def issued(authority: Authority, folder, *, now, name="A"):
    """Write a client certificate that is in no record, and its key; return the folder."""
    folder.mkdir()
    key = create_key()
    certificate = issue_certificate(authority, key.public_key(), common_name=name, now=now)
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(encode_private_key(key))
    return folder
