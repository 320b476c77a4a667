"""The packet codec against paho's own parser and encoder, and with bytes that are no MQTT at all."""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeexit.wire.packet_codec import (
    KEPT_BYTES,
    PUBACK,
    PUBLISH,
    Packet,
    PacketError,
    PacketStream,
    Publish,
    decode_length,
    encode_connect,
    encode_length,
    encode_pubacks,
    encode_publish,
    encode_string,
    encode_subscribe,
    parse_acknowledgement,
    parse_publish,
)

MAX_BYTES = 300_000
VERSIONS = [MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311]


class FedSocket:
    """A socket of paho that receives the chunks of a list."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = [bytearray(one) for one in chunks if one]
        self.sent = bytearray()

    def recv(self, size: int) -> bytes:
        if not self._chunks:
            raise BlockingIOError
        data = bytes(self._chunks[0][:size])
        del self._chunks[0][:size]
        if not self._chunks[0]:
            del self._chunks[0]
        return data

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def close(self) -> None:
        self._chunks = []


class PahoPeer(paho.Client):
    """paho's client without a network: it parses what it is fed, and encodes what it is asked for."""

    def __init__(self, version: MQTTProtocolVersion, chunks: Sequence[bytes] = ()) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id="peer", protocol=version, manual_ack=True)
        self._sock: Any = FedSocket(chunks)
        self.received: list[Publish] = []
        self.on_message = self._record

    def _record(self, _client: object, _user: object, one: paho.MQTTMessage) -> None:
        message = Publish(one._topic, bytes(one.payload), one.mid, one.qos, one.retain, one.dup)
        self.received.append(message)

    def read_all(self) -> list[Publish]:
        while self._packet_read() == MQTTErrorCode.MQTT_ERR_SUCCESS:
            pass
        return self.received

    def encoded(self) -> bytes:
        self.loop_write()
        return bytes(self._sock.sent)


def parse(chunks: Sequence[bytes], version: MQTTProtocolVersion, max_bytes: int = MAX_BYTES) -> list[Publish]:
    stream = PacketStream(max_bytes=max_bytes)
    packets = [packet for chunk in chunks for packet in stream.feed(chunk)]
    version5 = version == MQTTProtocolVersion.MQTTv5
    return [parse_publish(one, version5=version5) for one in packets if one.kind == PUBLISH]


def encode_with_paho(message: Publish, version: MQTTProtocolVersion, properties: Properties | None) -> bytes:
    peer = PahoPeer(version)
    more = {"properties": properties} if version == MQTTProtocolVersion.MQTTv5 else {}
    one, info = message, paho.MQTTMessageInfo(message.packet_id)
    peer._send_publish(one.packet_id, one.topic, one.payload, one.qos, one.retain, one.dup, info, **more)
    return peer.encoded()


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Return the bytes in pieces; they end at these places, as fractions of 1000."""
    ends = sorted({len(data) * place // 1000 for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


@st.composite
def publish_properties(draw: st.DrawFn) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    if draw(st.booleans()):
        properties.MessageExpiryInterval = draw(st.integers(0, 2**32 - 1))
    if draw(st.booleans()):
        properties.ContentType = draw(st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=200))
    if draw(st.booleans()):
        properties.CorrelationData = draw(st.binary(max_size=300))
    if draw(st.booleans()):
        properties.UserProperty = [("name", "value")] * draw(st.integers(1, 20))
    return properties


TOPICS = st.one_of(
    st.sampled_from([b"a", b"edgeexit/v1/f/s/d/up/report", "\u00e4".encode() * 32_767, b"t" * 65_535]),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=50).map(str.encode),
)
PAYLOADS = st.one_of(st.binary(max_size=40), st.integers(0, 40_000).map(bytes))
OTHERS = [b"\xd0\0", b"\x40\x02\0\x07"]
"""PINGRESP and PUBACK."""


@st.composite
def streams(draw: st.DrawFn) -> tuple[MQTTProtocolVersion, list[Publish], bytes]:
    """Messages and their packets, with packets of other types in between."""
    version = draw(st.sampled_from(VERSIONS))
    messages, data = [], b""
    for _ in range(draw(st.integers(0, 6))):
        qos = draw(st.integers(0, 1))
        topic = draw(TOPICS)
        packet_id = draw(st.integers(1, 65_535)) if qos else 0
        message = Publish(topic, draw(PAYLOADS), packet_id, qos, draw(st.booleans()), bool(qos) and draw(st.booleans()))
        properties = draw(publish_properties())
        messages.append(message)
        data += encode_with_paho(message, version, properties)
        if draw(st.booleans()):
            data += draw(st.sampled_from(OTHERS))
    return version, messages, data


@given(streams(), st.lists(st.integers(0, 1000), max_size=12))
def test_every_division_of_every_stream_gives_the_messages_that_paho_reads(stream, places):
    version, messages, data = stream
    chunks = cut(data, places)
    assert parse(chunks, version) == messages
    assert PahoPeer(version, chunks).read_all() == messages


@given(streams())
@settings(max_examples=20)
def test_a_stream_that_arrives_byte_by_byte_gives_the_same_messages(stream):
    version, messages, data = stream
    data = data[:3000]
    chunks = [data[place : place + 1] for place in range(len(data))]
    found = parse(chunks, version)
    assert found == messages[: len(found)]


@given(st.lists(st.binary(max_size=200), max_size=8), st.sampled_from(VERSIONS), st.integers(0, 300))
@settings(max_examples=500)
def test_random_bytes_raise_only_the_one_error_and_the_memory_is_bounded(chunks, version, max_bytes):
    stream = PacketStream(max_bytes=max_bytes)
    with contextlib.suppress(PacketError):
        for chunk in chunks:
            for packet in stream.feed(chunk):
                assert len(packet.body) <= max(max_bytes, 200 * 8)
                with contextlib.suppress(PacketError):
                    parse_publish(packet, version5=version == MQTTProtocolVersion.MQTTv5)
                with contextlib.suppress(PacketError):
                    parse_acknowledgement(packet)
            assert len(stream._rest) <= max_bytes + 205


@given(st.binary(min_size=1, max_size=60), st.sampled_from(VERSIONS))
@settings(max_examples=500)
def test_what_paho_reads_of_a_damaged_publish_this_codec_reads_too_or_refuses(body, version):
    data = bytes([0x32]) + encode_length(len(body)) + body
    expected = PahoPeer(version, [data]).read_all()
    try:
        found = parse([data], version)
    except PacketError:
        return
    if expected:
        assert found == expected


@given(streams(), st.data())
def test_a_message_above_the_maximum_arrives_without_its_payload_and_the_next_ones_are_intact(stream, data):
    version, messages, encoded = stream
    large = Publish(b"a/large", bytes(data.draw(st.integers(400, 400_000))), 9, 1, retain=True)
    encoded = encode_with_paho(large, version, None) + encoded
    chunks = cut(encoded, data.draw(st.lists(st.integers(0, 1000), max_size=5)))
    found = parse(chunks, version, max_bytes=399)
    assert found[0] == large._replace(payload=b"", is_cut=True)
    assert [one.topic for one in found[1:]] == [one.topic for one in messages]
    assert [one.payload for one in found[1:] if not one.is_cut] == [
        one.payload for one, read in zip(messages, found[1:], strict=True) if not read.is_cut
    ]


def test_of_a_message_above_the_maximum_only_its_start_is_kept():
    stream = PacketStream(max_bytes=1000)
    assert list(stream.feed(bytes([0x30]) + encode_length(100_000_000) + encode_string("a"))) == []
    for _ in range(99):
        assert list(stream.feed(bytes(1_000_000))) == []
        assert len(stream._rest) == KEPT_BYTES
    packet, second = stream.feed(bytes(1_000_000 - 3) + b"\xd0\0")
    assert (parse_publish(packet, version5=False).topic, packet.is_cut, second) == (b"a", True, Packet(0xD0, b""))


def test_a_large_packet_of_another_type_and_a_length_of_five_bytes_are_errors():
    with pytest.raises(PacketError, match="a packet of 2000 bytes, which is larger than any"):
        list(PacketStream(max_bytes=1000).feed(bytes([0x90]) + encode_length(2000)))
    with pytest.raises(PacketError, match="a length has more than four bytes"):
        list(PacketStream(max_bytes=1000).feed(b"\x30\xff\xff\xff\xff\x01"))


@pytest.mark.parametrize(
    ("first", "body", "version5", "reason"),
    [
        (0x36, b"\0\1a\0\1\0", True, "QoS 3 and packet identifier 1"),
        (0x32, b"\0\1a\0\0\0", True, "QoS 1 and packet identifier 0"),
        (0x32, b"\0\1a\0", True, "QoS 1 and packet identifier 0"),
        (0x30, b"\0\0x", False, "without a topic"),
        (0x30, b"\0\5abc", True, "shorter than its fields"),
        (0x30, b"\0\1a", True, "shorter than its fields"),
        (0x30, b"\0\1a\5\0", True, "shorter than its fields"),
        (0x30, b"\0\1a\xff\xff\xff\xff\x01", True, "a length has more than four bytes"),
        (0x30, b"", True, "shorter than its fields"),
        (0x30, b"\0", False, "without a topic"),
    ],
)
def test_a_malformed_publish_is_named(first, body, version5, reason):
    with pytest.raises(PacketError, match=reason):
        parse_publish(Packet(first, body), version5=version5)


@given(streams(), st.booleans(), st.booleans())
def test_what_this_codec_encodes_paho_reads(stream, retain, dup):
    version, messages, _ = stream
    version5 = version == MQTTProtocolVersion.MQTTv5
    encoded, expected = b"", []
    for one in messages:
        options = {"packet_id": one.packet_id, "retain": retain, "dup": dup}
        encoded += encode_publish(one.topic.decode(), one.payload, version5=version5, **options)
        expected.append(one._replace(retain=retain, dup=dup))
    assert PahoPeer(version, [encoded]).read_all() == expected
    assert parse([encoded], version) == expected


def test_requests_are_those_of_paho():
    for version5, version in ((True, VERSIONS[0]), (False, VERSIONS[1])):
        peer = PahoPeer(version)
        peer._send_subscribe(0, [(b"a/+", paho.SubscribeOptions(qos=1) if version5 else 1)])
        assert encode_subscribe("a/+", version5=version5, packet_id=1) == peer.encoded()
        peer = PahoPeer(version)
        if version5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0
            peer._connect_properties = properties
        peer._send_connect(60)
        assert encode_connect("peer", version5=version5) == peer.encoded()


def test_acknowledgements_are_encoded_and_parsed():
    (first, second) = PacketStream(max_bytes=10).feed(encode_pubacks([1, 65_535]))
    assert [parse_acknowledgement(one) for one in (first, second)] == [(1, 0), (65_535, 0)]
    assert first.kind == PUBACK
    assert parse_acknowledgement(Packet(0x40, b"\0\7\x87")) == (7, 0x87)
    assert parse_acknowledgement(Packet(0x20, b"\0\x86\0")) == (0, 0x86)
    assert parse_acknowledgement(Packet(0x90, b"\0\7\0\x80")) == (7, 0x80)
    with pytest.raises(PacketError, match="an acknowledgement of 1 bytes"):
        parse_acknowledgement(Packet(0x40, b"\0"))


@given(st.integers(0, 268_435_455))
def test_lengths_are_decoded_as_they_were_encoded(number):
    encoded = encode_length(number)
    assert decode_length(b"x" + encoded, 1) == (number, 1 + len(encoded))
    assert decode_length(encoded[:-1], 0) == (0, 0)


def test_what_mqtt_cannot_carry_is_refused():
    with pytest.raises(ValueError, match="268435456 is larger than 268435455"):
        encode_length(268_435_456)
    with pytest.raises(ValueError, match="a string of 65536 bytes is longer"):
        encode_string("x" * 65_536)
