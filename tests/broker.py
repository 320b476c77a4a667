"""A real broker for tests, with the configuration of the quickstart."""

import socket
from pathlib import Path
from typing import Any

import iotcore

from edgeexit.quickstart.fleet import Ports, broker_config


class RealBroker:
    """rumqttd on free ports. It can be stopped and started again, but keeps no state in between."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            ports = Ports(mqtt3=other.getsockname()[1], mqtt5=one.getsockname()[1])
        self.port = ports.mqtt5
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / "broker.toml"
        self._config.write_text(broker_config(ports))
        self._broker: Any = None

    def start(self) -> None:
        self._broker = iotcore.Broker(config_path=str(self._config))
        self._broker.start()

    def stop(self) -> None:
        if self._broker is not None:
            self._broker.stop()
            self._broker = None
