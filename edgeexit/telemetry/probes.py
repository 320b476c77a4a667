"""What a probe is, and which one reads this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

from edgeexit.telemetry.jetson import JetsonProbe, is_jetson
from edgeexit.telemetry.linux import LinuxProbe
from edgeexit.telemetry.raspberry_pi import RaspberryPiProbe, is_raspberry_pi
from edgeexit.telemetry.reading import Reading


class Probe(Protocol):
    """Reads the sensors of one machine. Never raises: what cannot be read is None."""

    @property
    def name(self) -> str:
        """As in `Telemetry.probe`."""

    @property
    def total_rail(self) -> str | None:
        """Name of the rail that carries the whole board."""

    def read(self) -> Reading:
        """Read every sensor once; what happened since the call before counts, so calls belong to one thread."""

    def settings(self) -> dict[str, str]:
        """Return what the machine is set to, such as its governor and power mode."""


class _Board(NamedTuple):
    is_here: Callable[[Path], bool]
    probe: Callable[[Path], Probe]


_BOARDS: Final[dict[str, _Board]] = {
    "jetson": _Board(is_jetson, JetsonProbe),
    "raspberry-pi": _Board(is_raspberry_pi, RaspberryPiProbe),
}


def find_probe(telemetry: Literal["none", "jetson", "raspberry-pi"], root: Path = Path("/")) -> Probe:
    """Return the probe that a target's `telemetry` names, where the machine is such a board.

    On any other machine, and with `none`, the one for any Linux: what it finds is true, if less.
    """
    board = _BOARDS.get(telemetry)
    return board.probe(root) if board is not None and board.is_here(root) else LinuxProbe(root)
