"""Replays the samples of an .npz file endlessly and shuffled; when the file is replaced, replays the new samples."""

import logging
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgeexit.bundle.manifest import Manifest
from edgeexit.datasets import Dataset, load_dataset
from edgeexit.errors import DataError
from edgeexit.limited_log import LimitedLog

_log = logging.getLogger(__name__)

_MAX_DELAY_S: Final = 1.0
"""A consumer with a longer delay does not catch up: the schedule starts again from now."""


class StreamSample(NamedTuple):
    """One sample as a batch of one."""

    inputs: dict[str, npt.NDArray[Any]]
    """Model input name -> [1, ...]."""
    labels: npt.NDArray[np.int64] | None
    """[1] true class; None if the file has no `labels`, or if they are label maps (segmentation)."""


class _FileVersion(NamedTuple):
    """Changes when the file is replaced."""

    inode: int
    modified_ns: int
    size: int


class SampleStream:
    """Replays a data file endlessly, each pass in a new random order.

    When the file is replaced, its new samples come next. If the new file is invalid or missing, the stream logs one
    warning and continues with the old samples.

    Args:
        path: the .npz file; its arrays must fit the model's inputs.
        manifest: manifest of the bundle that runs the samples.
        seed: seed of the order; default: a different order each time.

    Raises DataError if the file does not fit the model.

    """

    def __init__(self, path: Path, manifest: Manifest, *, seed: int | None = None) -> None:
        self._path = path
        self._manifest = manifest
        self._generator = np.random.default_rng(seed)
        self._repeats = LimitedLog(_log)
        self._version = _file_version(path)
        self._dataset = self._load()
        self._order = iter(self._generator.permutation(len(self._dataset)))

    def next_sample(self) -> StreamSample:
        """Return the next sample."""
        if (version := _file_version(self._path)) != self._version:
            self._version = version
            self._reload()
        row = next(self._order, None)
        if row is None:
            self._order = iter(self._generator.permutation(len(self._dataset)))
            row = next(self._order)
        one = slice(row, row + 1)
        labels = self._dataset.labels
        return StreamSample(
            inputs={name: array[one] for name, array in self._dataset.inputs.items()},
            labels=None if labels is None else labels[one],
        )

    def _reload(self) -> None:
        try:
            self._dataset = self._load()
        except DataError as error:
            self._repeats.warning("invalid", "the stream continues with the old samples: %s", error)
            return
        self._order = iter(self._generator.permutation(len(self._dataset)))
        self._repeats.info(
            "replaced",
            "the stream file '%s' was replaced; its number of samples is now %d",
            self._path,
            len(self._dataset),
        )

    def _load(self) -> Dataset:
        dataset = load_dataset(
            self._path,
            self._manifest.inputs,
            task=self._manifest.task,
            classes=self._manifest.classes,
            read_labels=not self._manifest.has_maps,  # the agent has no use for label maps
        )
        for warning in dataset.warnings:
            self._repeats.warning(warning, "%s", warning)
        return dataset


def ticks(rate_per_s: float, *, stop: threading.Event, duration_s: float | None = None) -> Iterator[None]:
    """Yield `rate_per_s` times per second (0: as often as possible) until `stop` is set or `duration_s` is over."""
    due = started = time.monotonic()
    end = started + (math.inf if duration_s is None else duration_s)
    while not stop.is_set() and (now := time.monotonic()) < end:
        if rate_per_s and now < due:
            stop.wait(min(due, end) - now)
            continue
        yield
        if rate_per_s:
            due = (now if now - due > _MAX_DELAY_S else due) + 1 / rate_per_s


def _file_version(path: Path) -> _FileVersion | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _FileVersion(status.st_ino, status.st_mtime_ns, status.st_size)
