"""Samples replayed from an .npz file: shuffled, endless, and following the file when it is replaced."""

import logging
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import Manifest
from edgeexit.datasets import Dataset, load_dataset
from edgeexit.errors import DataError

_log = logging.getLogger(__name__)

_FALLEN_BEHIND_S = 1.0


class Sample(NamedTuple):
    """One sample as a batch of one."""

    inputs: dict[str, npt.NDArray[Any]]
    """Model input name -> [1, ...]."""
    labels: npt.NDArray[np.int64] | None
    """[1] its class, where the file has `labels` and they are no maps."""


class _Version(NamedTuple):
    """What tells one version of a file from the next."""

    inode: int
    modified_ns: int
    size: int


class SampleStream:
    """Replays a data file; `next_sample` never ends.

    Every pass is in a new random order. When the file is replaced its new samples come next; a replacement that is
    broken or gone is logged once, and the old samples go on.

    Args:
        path: the .npz, checked against the model's inputs. Raises DataError when it does not fit at the start.
        manifest: of the bundle that will answer.
        seed: of the order; default: another one every time.

    """

    def __init__(self, path: Path, manifest: Manifest, *, seed: int | None = None) -> None:
        self._path = path
        self._manifest = manifest
        self._generator = np.random.default_rng(seed)
        self._seen = _version(path)
        self._dataset = self._load()
        self._order = iter(self._generator.permutation(len(self._dataset)))

    def next_sample(self) -> Sample:
        """Return the next sample."""
        if (found := _version(self._path)) != self._seen:
            self._seen = found
            self._change_over()
        row = next(self._order, None)
        if row is None:
            self._order = iter(self._generator.permutation(len(self._dataset)))
            row = next(self._order)
        one = slice(row, row + 1)
        labels = self._dataset.labels
        return Sample(
            inputs={name: array[one] for name, array in self._dataset.inputs.items()},
            labels=None if labels is None or labels.ndim > 1 else labels[one],
        )

    def _change_over(self) -> None:
        try:
            self._dataset = self._load()
        except DataError as error:
            _log.warning("the stream goes on with the old samples: %s", error)
            return
        self._order = iter(self._generator.permutation(len(self._dataset)))
        _log.info("the stream has new samples: %d from '%s'", len(self._dataset), self._path)

    def _load(self) -> Dataset:
        return load_dataset(self._path, self._manifest.inputs, task=self._manifest.task, classes=self._manifest.classes)


def ticks(rate_per_s: float, *, stop: threading.Event, duration_s: float | None = None) -> Iterator[None]:
    """Yield `rate_per_s` times a second (0: without a pause) until `stop` is set or `duration_s` is over.

    A consumer that is too slow is not hurried: more than a second behind, the beat starts anew.
    """
    due = started = time.monotonic()
    end = started + (math.inf if duration_s is None else duration_s)
    while not stop.is_set() and (now := time.monotonic()) < end:
        if rate_per_s and now < due:
            stop.wait(min(due, end) - now)
            continue
        yield
        if rate_per_s:
            due = (now if now - due > _FALLEN_BEHIND_S else due) + 1 / rate_per_s


def _version(path: Path) -> _Version | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return _Version(found.st_ino, found.st_mtime_ns, found.st_size)
