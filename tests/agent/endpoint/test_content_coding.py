"""Compressed bodies: decoded exactly, in bounded memory, and refused with the accepted codings named."""

import contextlib
import gzip
import itertools
import json
import os
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.agent.endpoint.content_coding import _MAX_PIECE_BYTES, BodyInflater, inflater_of
from edgeexit.agent.endpoint.refusal import RefusalError
from tests.agent.endpoint.client import MODEL, Served, infer_request, send_request
from tests.agent.fleet import wait_for
from tests.bundles import INPUT, make_samples

Serve = Callable[..., Served]

INFER = f"{MODEL}/infer"
BODY = json.dumps(infer_request(make_samples(20)[INPUT])).encode()


def raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(data) + encoder.flush()


ENCODERS = [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate)]


def inflate(coding: str, parts: list[bytes]) -> bytes:
    inflater = BodyInflater(coding)
    result = b"".join(piece for part in parts for piece in inflater.inflate(part))
    inflater.finish()
    return result


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
@given(data=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=5), times=st.integers(1, 1000))
def test_a_body_is_inflated_exactly_however_it_arrives(
    coding: str, encode: Callable[[bytes], bytes], data: bytes, cuts: list[int], times: int
) -> None:
    data *= times
    encoded = encode(data)
    places = [0, *sorted(min(cut, len(encoded)) for cut in cuts), len(encoded)]
    parts = [encoded[start:end] for start, end in itertools.pairwise(places)]
    assert inflate(coding, parts) == data


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
def test_a_body_that_is_little_longer_than_a_piece_is_inflated_to_its_end(
    coding: str, encode: Callable[[bytes], bytes]
) -> None:
    for size in range(_MAX_PIECE_BYTES - 5, _MAX_PIECE_BYTES + 260, 7):  # the decoder holds the end of a long match
        assert len(inflate(coding, [encode(bytes(size))])) == size


def test_gzip_data_may_have_several_members() -> None:
    assert inflate("gzip", [gzip.compress(b"one ") + gzip.compress(b"two")]) == b"one two"
    with pytest.raises(RefusalError, match="bytes after its end"):
        inflate("gzip", [gzip.compress(b"") * 2000])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@given(data=st.binary(min_size=1, max_size=200))
def test_arbitrary_bytes_are_inflated_or_refused(coding: str, data: bytes) -> None:
    with contextlib.suppress(RefusalError):
        inflate(coding, [data[:1], data[1:]])


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
def test_a_body_that_is_cut_or_has_more_bytes_is_refused(coding: str, encode: Callable[[bytes], bytes]) -> None:
    encoded = encode(BODY)
    with pytest.raises(RefusalError, match="not complete"):
        inflate(coding, [encoded[:-1]])
    with pytest.raises(RefusalError, match=r"after its end|not valid gzip data"):
        inflate(coding, [encoded + b"more"])


def test_the_coding_of_a_body_is_one_of_three() -> None:
    for value in ("gzip", "X-GZIP", "Deflate"):
        assert inflater_of(value) is not None
    assert inflater_of("identity") is None
    for value in ("br", "zstd", "gzip, deflate", "gzip\x00", ""):
        with pytest.raises(RefusalError, match="use one of gzip, deflate, identity"):
            inflater_of(value)


@pytest.mark.parametrize(("coding", "encode"), [*ENCODERS, ("identity", bytes), ("x-gzip", gzip.compress)])
@pytest.mark.parametrize("path", [INFER, "/edgeexit/v1/feedback"])
def test_a_compressed_request_gets_the_response_of_a_plain_one(
    served: Served, coding: str, encode: Callable[[bytes], bytes], path: str
) -> None:
    body = BODY if path == INFER else b'{"id": "a", "label": 1}'
    plain = send_request(served.endpoint.port, path, body)
    found = send_request(served.endpoint.port, path, encode(body), Content_Encoding=coding)
    assert found.status == plain.status
    assert found.body.get("error") == plain.body.get("error")
    wait_for(lambda: served.held_bytes == 0, "the body to be released")


def test_an_unknown_coding_gets_a_415_that_names_the_accepted_ones(served: Served) -> None:
    found = send_request(served.endpoint.port, INFER, BODY, Content_Encoding="br")
    assert (found.status, found.headers["Accept-Encoding"]) == (415, "gzip, deflate, identity")
    assert found.body["error"] == "content encoding 'br' is not supported; use one of gzip, deflate, identity"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_coding_without_a_body_is_no_error(served: Served, coding: str) -> None:
    assert send_request(served.endpoint.port, "/v2/health/live", Content_Encoding=coding).status == 200
    found = send_request(served.endpoint.port, INFER, b"", Content_Encoding=coding)
    assert (found.status, "JSON" in found.body["error"]) == (400, True)


def test_damaged_data_gets_a_400_and_the_connection_stays_usable(served: Served) -> None:
    found = send_request(served.endpoint.port, INFER, b"\x00" * 5000, Content_Encoding="gzip")
    assert (found.status, "not valid gzip data" in found.body["error"]) == (400, True)
    wait_for(lambda: served.held_bytes == 0, "the body to be released")
    assert send_request(served.endpoint.port, INFER, BODY).status == 200


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
def test_a_body_that_inflates_to_more_than_the_limit_is_refused_in_bounded_memory(
    serve: Serve, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    served = serve(max_body_bytes=1024 * 1024)
    bomb = encode(bytes(50 * 1024 * 1024))
    assert len(bomb) < 1024 * 1024
    tracemalloc.start()
    try:
        found = send_request(served.endpoint.port, INFER, bomb, Content_Encoding=coding)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.status, "at most 1048576 bytes" in found.body["error"]) == (413, True)
    assert peak < 5 * 1024 * 1024
    wait_for(lambda: served.held_bytes == 0, "the body to be released")


def test_a_compressed_body_counts_by_its_inflated_size(serve: Serve) -> None:
    served = serve(max_body_bytes=64 * 1024)
    fits = b" " * (64 * 1024 - len(BODY)) + BODY
    assert send_request(served.endpoint.port, INFER, gzip.compress(fits), Content_Encoding="gzip").status == 200
    assert send_request(served.endpoint.port, INFER, gzip.compress(b" " + fits), Content_Encoding="gzip").status == 413
    noise = os.urandom(65 * 1024)
    assert send_request(served.endpoint.port, INFER, gzip.compress(noise), Content_Encoding="gzip").status == 413
