"""Replaying a data file, and using the new file when it is replaced."""

import logging
import os
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeexit.agent.stream import SampleStream, ticks
from edgeexit.bundle import Bundle
from edgeexit.errors import DataError
from edgeexit.npz import save_arrays
from tests.agent.damage import encrypt
from tests.bundles import INPUT


def write(path: Path, first: int, count: int = 6, *, labels: bool = True) -> Path:
    """Write samples numbered from `first`; all features of a sample equal its number."""
    numbers = np.arange(first, first + count)
    arrays = {INPUT: np.repeat(numbers[:, None], 8, axis=1).astype(np.float32)}
    save_arrays(path, arrays | ({"labels": numbers % 4} if labels else {}))
    return path


def numbers(stream: SampleStream, count: int) -> list[int]:
    return [int(stream.next_sample().inputs[INPUT][0, 0]) for _ in range(count)]


def test_every_pass_contains_all_samples_in_a_new_order(tmp_path: Path, bundle: Bundle) -> None:
    stream = SampleStream(write(tmp_path / "s.npz", 0, 50), bundle.manifest, seed=1)
    first, second = numbers(stream, 50), numbers(stream, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second != list(range(50))


def test_a_sample_is_a_batch_of_one_with_its_label(tmp_path: Path, bundle: Bundle) -> None:
    stream = SampleStream(write(tmp_path / "s.npz", 0), bundle.manifest)
    for _ in range(6):
        sample = stream.next_sample()
        assert sample.inputs[INPUT].shape == (1, 8)
        assert sample.labels is not None
        assert sample.labels.tolist() == [int(sample.inputs[INPUT][0, 0]) % 4]
    assert SampleStream(write(tmp_path / "u.npz", 0, labels=False), bundle.manifest).next_sample().labels is None


def test_the_samples_of_the_new_file_come_next_when_the_file_is_replaced(tmp_path: Path, bundle: Bundle) -> None:
    path = write(tmp_path / "s.npz", 0)
    stream = SampleStream(path, bundle.manifest)
    numbers(stream, 2)
    write(tmp_path / "new.npz", 100).replace(path)
    assert sorted(numbers(stream, 6)) == list(range(100, 106))


@pytest.mark.parametrize("damage", ["truncated", "missing", "other shape", "encrypted"])
def test_an_invalid_replacement_is_logged_once_and_the_old_samples_are_replayed(
    tmp_path: Path, bundle: Bundle, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = write(tmp_path / "s.npz", 0)
    stream = SampleStream(path, bundle.manifest)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "missing":
        path.unlink()
    elif damage == "encrypted":
        encrypt(write(path, 70))
    else:
        save_arrays(path, {INPUT: np.zeros((3, 5), dtype=np.float32)})
    with caplog.at_level(logging.WARNING):
        assert sorted(numbers(stream, 6)) == list(range(6))
        numbers(stream, 20)
    assert len(caplog.records) == 1
    assert "continues with the old samples" in caplog.text
    write(path, 50)
    assert min(numbers(stream, 6)) >= 50


def test_a_file_with_a_new_modification_time_is_read_again(tmp_path: Path, bundle: Bundle) -> None:
    path = write(tmp_path / "s.npz", 0)
    stream = SampleStream(path, bundle.manifest)
    os.utime(path, (1, 1))
    assert sorted(numbers(stream, 6)) == list(range(6))


def test_a_missing_file_at_the_start_is_an_error(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(DataError, match=r"s\.npz"):
        SampleStream(tmp_path / "s.npz", bundle.manifest)


@pytest.mark.timing
def test_ticks_follow_the_rate_and_the_duration() -> None:
    started = time.monotonic()
    count = sum(1 for _ in ticks(100, stop=threading.Event(), duration_s=0.3))
    assert 0.3 <= time.monotonic() - started < 1.0
    assert 15 <= count <= 31
    assert sum(1 for _ in ticks(0, stop=threading.Event(), duration_s=0.05)) > 100


@pytest.mark.timing
def test_ticks_end_at_once_when_stop_is_set() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    assert sum(1 for _ in ticks(0.01, stop=stop)) == 1
    assert time.monotonic() - started < 2


def test_a_zip_file_without_arrays_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    with zipfile.ZipFile(tmp_path / "samples.npz", "w") as archive:
        archive.writestr("readme.txt", "no array")
    with pytest.raises(DataError, match=r"samples\.npz' is a zip file without arrays; save it with numpy\.savez"):
        SampleStream(tmp_path / "samples.npz", bundle.manifest)
