"""Runs our agent as the client under test of scripts/conformance, with its settings from the environment."""

import os
import signal
import sys
import threading
from pathlib import Path

from edgeexit.agent import Agent, AgentConfig
from edgeexit.wire import BrokerConfig
from tests.bundles import make_bundle, make_samples


def main(folder: Path) -> None:
    """Run inferences until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    config = AgentConfig(
        fleet=os.environ["FLEET"],
        shard=os.environ["SHARD"],
        device=os.environ["DEVICE"],
        state_dir=folder / "state",
        trusted_keys=(Path(os.environ["TRUSTED_KEY"]),),
        broker=BrokerConfig(url=f"mqtt://{os.environ['BROKER_HOST']}:{os.environ['BROKER_PORT']}"),
        audit_fraction=1.0,
        report_interval_s=float(os.environ["REPORT_INTERVAL_S"]),
        resend_s=float(os.environ["RESEND_S"]),
    )
    with Agent(make_bundle(folder / "bundle"), config) as agent:
        samples = make_samples(2)
        while not stop.wait(0.05):
            agent.infer(samples)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
