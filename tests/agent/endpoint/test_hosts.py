"""Requests that a web page in a browser on this machine could have sent are refused."""

import platform
from collections.abc import Callable

import pytest

from edgeexit.agent.endpoint.hosts import HostRule
from tests.agent.endpoint.client import MODEL, Served, infer_request, send_request
from tests.bundles import INPUT, make_samples

INFER = f"{MODEL}/infer"
ONE = infer_request(make_samples(1)[INPUT])


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("localhost", True),
        ("LocalHost:8080", True),
        ("localhost.", True),
        ("127.0.0.1:8080", True),
        ("192.168.7.20", True),
        ("[::1]:8080", True),
        (platform.node(), True),
        ("camera.example:80", True),
        ("camera.example.evil.example", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost:8080:1", False),
        ("user@localhost", False),
        ("localhost/evil.example", False),
        ("[::1", False),
        ("2130706433", False),
        ("127.1", False),
        ("", False),
    ],
)
def test_hosts_are_localhost_addresses_and_configured_names(value: str, *, accepted: bool) -> None:
    rule = HostRule(["camera.example"])
    assert [rule.accepts(value), rule.accepts(value)] == [accepted, accepted]


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({"Host": "evil.example"}, 421, "add the name to hosts under [endpoint]"),
        ({"Origin": "null"}, 403, "web pages"),
        ({"Sec_Fetch_Site": "cross-site"}, 403, "web pages"),
        ({"Sec_Fetch_Site": "same-site"}, 403, "web pages"),
        ({"Content_Type": "text/plain; charset=utf-8"}, 415, "send application/json"),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415, "send application/json"),
        ({"Content_Type": "multipart/form-data; boundary=x"}, 415, "send application/json"),
        ({"Content_Type": "application/json"}, 200, None),
        ({"Content_Type": "application/octet-stream"}, 200, None),
        ({"Sec_Fetch_Site": "none"}, 200, None),
        ({"Host": "127.0.0.1"}, 200, None),
    ],
)
def test_requests_of_web_pages_are_refused(served: Served, headers: dict[str, str], status: int, text: str) -> None:
    response = send_request(served.endpoint.port, INFER, ONE, **headers)
    assert response.status == status
    assert text is None or text in response.body["error"]


def test_names_in_the_configuration_are_accepted(serve: Callable[..., Served]) -> None:
    served = serve(hosts=("camera.example",))
    assert send_request(served.endpoint.port, "/v2", Host="camera.example:80").status == 200
    assert send_request(served.endpoint.port, "/v2", Host="other.example:80").status == 421
