"""The interface of probes, and the selection of the probe for this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

from edgeexit.telemetry.jetson import JetsonProbe, is_jetson
from edgeexit.telemetry.linux import LinuxProbe
from edgeexit.telemetry.raspberry_pi import RaspberryPiProbe, is_raspberry_pi
from edgeexit.telemetry.reading import Reading


class Probe(Protocol):
    """Reads the sensors of one machine. It never raises; a value that cannot be read is None."""

    @property
    def name(self) -> str:
        """Name of the probe, as in `Telemetry.probe`."""

    @property
    def total_rail(self) -> str | None:
        """Name of the rail that measures the whole board, or None."""

    def read(self) -> Reading:
        """Read every sensor once. Events count since the previous call, so all calls must come from one thread."""

    def settings(self) -> dict[str, str]:
        """Return settings of the machine, e.g. its governor and power mode."""


class _Board(NamedTuple):
    matches: Callable[[Path], bool]
    probe: Callable[[Path], Probe]


_BOARDS: Final[dict[str, _Board]] = {
    "jetson": _Board(is_jetson, JetsonProbe),
    "raspberry-pi": _Board(is_raspberry_pi, RaspberryPiProbe),
}


def find_probe(telemetry: Literal["none", "jetson", "raspberry-pi"], root: Path = Path("/")) -> Probe:
    """Return the probe that a target's `telemetry` names, if this machine is such a board.

    On any other machine, and for `none`, return the probe for any Linux machine.
    """
    board = _BOARDS.get(telemetry)
    return board.probe(root) if board is not None and board.matches(root) else LinuxProbe(root)
