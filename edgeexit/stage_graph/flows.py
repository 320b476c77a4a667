"""The tensors that each stage of a bundle passes to later stages, and their size in bytes per sample."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from edgeexit.bundle.manifest import Manifest, TensorSpec

_UNITS = ("B", "KiB", "MiB", "GiB")
_STEP = 1024
_TIMES = " \N{MULTIPLICATION SIGN} "


class StageFlow(NamedTuple):
    """The tensors that one stage reads from one earlier stage, or from the model's inputs."""

    source: int | None
    """Index of the stage that produces the tensors; None: they are inputs of the model."""
    target: int
    """Index of the stage that reads the tensors."""
    tensors: tuple[TensorSpec, ...]


def stage_flows(manifest: Manifest) -> tuple[StageFlow, ...]:
    """Return the flows of a bundle, sorted by target and then by source; the model's inputs come first."""
    producers: dict[str, tuple[int | None, TensorSpec]] = {tensor.name: (None, tensor) for tensor in manifest.inputs}
    flows = []
    for index, stage in enumerate(manifest.stages):
        read: dict[int | None, list[TensorSpec]] = {}
        for name in (*stage.inputs, *stage.carry_in):
            producer, tensor = producers[name]
            read.setdefault(producer, []).append(tensor)
        sources = sorted(read, key=lambda source: -1 if source is None else source)
        flows += [StageFlow(source, index, tuple(read[source])) for source in sources]
        producers |= {tensor.name: (index, tensor) for tensor in stage.carry_out}
    return tuple(flows)


def bytes_per_sample_text(tensors: Sequence[TensorSpec], *, exact: bool = False) -> str:
    """Return the size of the tensors in bytes per sample as text, e.g. `16 KiB` or `512 B + 32 B times length`.

    A symbolic dimension appears by its name. With `exact`, the text has all digits and no units.
    """
    terms: dict[tuple[str, ...], int] = {}
    for tensor in tensors:
        symbols = tuple(sorted(size for size in tensor.shape[1:] if isinstance(size, str)))
        known = (tensor.shape[0], *(size for size in tensor.shape[1:] if not isinstance(size, str)))
        count = msgspec.structs.replace(tensor, shape=known).bytes_per_sample or 0
        terms[symbols] = terms.get(symbols, 0) + count
    write = "{:,}".format if exact else _with_unit
    return " + ".join(_TIMES.join((write(terms[symbols]), *symbols)) for symbols in sorted(terms)) or write(0)


def _with_unit(count: int) -> str:
    value, unit = float(count), _UNITS[0]
    for larger in _UNITS[1:]:
        if value < _STEP:
            break
        value, unit = value / _STEP, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"  # noqa: PLR2004 - no exponent for four digits
