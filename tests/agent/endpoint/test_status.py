"""The status call: the connection to the fleet, for an operator on the device."""

from collections.abc import Callable
from typing import Any

from edgeexit.agent import Agent, AgentConfig, EndpointConfig
from edgeexit.agent.endpoint.server import Endpoint
from edgeexit.bundle import Bundle
from tests.agent.endpoint.client import MODEL, Served, infer_request, send_request
from tests.agent.fleet import Fleet, wait_for, wait_for_revision
from tests.bundles import INPUT, make_samples


def status(port: int) -> dict[str, Any]:
    response = send_request(port, "/edgeexit/v1/status")
    assert response.status == 200
    document: dict[str, Any] = response.body
    return document


def test_without_a_broker_the_status_names_the_reason_and_the_endpoint_is_ready(
    serve: Callable[..., Served], config: AgentConfig, bundle: Bundle
) -> None:
    served = serve(agent={"report_interval_s": 0.1})
    port = served.endpoint.port
    assert send_request(port, f"{MODEL}/infer", infer_request(make_samples(1)[INPUT])).status == 200
    wait_for(lambda: status(port)["unacknowledged"], "a report that waits")
    wait_for(lambda: "refused" in str(status(port)["connection"]), "the reason")
    found = status(port)
    assert (found["fleet"], found["device"]) == (config.fleet, config.device)
    assert (found["state"]["online"], found["state"]["bundle"]) == (False, bundle.digest)
    assert send_request(port, "/v2/health/ready").status == 200


def test_the_status_shows_the_state_that_the_fleet_sees(fleet: Fleet, bundle: Bundle, config: AgentConfig) -> None:
    with Agent(bundle, config) as agent, Endpoint(agent, EndpointConfig(port=0)) as endpoint:
        wait_for_revision(fleet, config, 0)
        fleet.send_policy(config, fleet.document(3))
        wait_for_revision(fleet, config, 3)
        found = status(endpoint.port)
        assert found["connection"] is None
        seen = fleet.state(config)
        assert seen is not None
        state = found["state"]
        assert (state["online"], state["revision"], state["policy"]) == (True, 3, "confidence")
        assert (state["start"], state["key"]) == (seen.start, seen.key)
