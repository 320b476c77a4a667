"""What flows between the stages of a bundle, and how many bytes a sample that is."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from edgeexit.bundle.manifest import Manifest, TensorSpec

_UNITS = ("B", "KiB", "MiB", "GiB")
_STEP = 1024
_TIMES = " \N{MULTIPLICATION SIGN} "


class StageFlow(NamedTuple):
    """All tensors that one stage, or the model's inputs, gives to one later stage."""

    source: int | None
    """Index of the stage that makes them; None: they are inputs of the model."""
    target: int
    """Index of the stage that reads them."""
    tensors: tuple[TensorSpec, ...]


def flows_of(manifest: Manifest) -> tuple[StageFlow, ...]:
    """Return the flows of a bundle, by target and then by source, the model's inputs first."""
    makers: dict[str, tuple[int | None, TensorSpec]] = {tensor.name: (None, tensor) for tensor in manifest.inputs}
    found = []
    for index, stage in enumerate(manifest.stages):
        read: dict[int | None, list[TensorSpec]] = {}
        for name in (*stage.inputs, *stage.carry_in):
            maker, tensor = makers[name]
            read.setdefault(maker, []).append(tensor)
        sources = sorted(read, key=lambda maker: -1 if maker is None else maker)
        found += [StageFlow(maker, index, tuple(read[maker])) for maker in sources]
        makers |= {tensor.name: (index, tensor) for tensor in stage.carry_out}
    return tuple(found)


def sample_size(tensors: Sequence[TensorSpec], *, exact: bool = False) -> str:
    """Return the bytes of one sample of all the tensors as text, e.g. `16 KiB` or `512 B + 32 B times length`.

    Dimensions known only at run time stand as the word that the model has for them. `exact`: every digit, no units.
    """
    terms: dict[tuple[str, ...], int] = {}
    for tensor in tensors:
        words = tuple(sorted(size for size in tensor.shape[1:] if isinstance(size, str)))
        known = (tensor.shape[0], *(size for size in tensor.shape[1:] if not isinstance(size, str)))
        count = msgspec.structs.replace(tensor, shape=known).bytes_per_sample or 0
        terms[words] = terms.get(words, 0) + count
    write = "{:,}".format if exact else _with_unit
    return " + ".join(_TIMES.join((write(terms[words]), *words)) for words in sorted(terms)) or write(0)


def _with_unit(count: int) -> str:
    value, unit = float(count), _UNITS[0]
    for larger in _UNITS[1:]:
        if value < _STEP:
            break
        value, unit = value / _STEP, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"  # noqa: PLR2004 - four digits are shown whole
