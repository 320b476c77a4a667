"""Building a bundle: it appears complete, or not at all."""

import errno
import sys
import threading

import pytest

from edgeexit.bundle import bundle_folder
from edgeexit.errors import BundleError
from tests.bundles import make_bundle


def test_a_failed_build_leaves_no_files(tmp_path):
    target = tmp_path / "bundle"

    def fail() -> None:
        with bundle_folder(target) as folder:
            (folder / "stage0.onnx").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_removes_its_own_folders_only(tmp_path):
    (tmp_path / "old").mkdir()
    for target in ("new/deeper/bundle", "old/new/bundle"):
        with pytest.raises(RuntimeError), bundle_folder(tmp_path / target):
            raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]
    with pytest.raises(RuntimeError), bundle_folder(tmp_path / "new" / "deeper" / "bundle"):  # noqa: PT012
        (tmp_path / "new" / "other file").touch()
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "old", "other file"]


def test_on_a_full_disk_the_error_names_the_bundle_and_the_file(tmp_path):
    with pytest.raises(BundleError, match=r"bundle '.*/bundle': golden.npz cannot be written: No space left"):  # noqa: SIM117
        with bundle_folder(tmp_path / "bundle") as folder:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "golden.npz"))
    with pytest.raises(BundleError, match=r"bundle '.*/bundle' cannot be written: No space left"):  # noqa: SIM117
        with bundle_folder(tmp_path / "bundle"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can exchange two folders")
def test_a_bundle_exists_at_every_moment_of_its_replacement(tmp_path):
    target = tmp_path / "bundle"
    done = threading.Event()
    missed = 0

    def watch():
        nonlocal missed
        while not done.is_set():
            missed += not (target / "manifest.json").exists()

    with bundle_folder(target) as folder:
        (folder / "manifest.json").touch()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(60):
        with bundle_folder(target, replace=True) as folder:
            (folder / "manifest.json").touch()
    done.set()
    watcher.join()
    assert missed == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_only_a_bundle_is_replaced_and_only_with_replace(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(BundleError, match="--force"), bundle_folder(bundle.path):
        pass
    with bundle_folder(bundle.path, replace=True) as folder:
        (folder / "new").touch()
    assert [file.name for file in bundle.path.iterdir()] == ["new"]
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(BundleError, match="is not a bundle"), bundle_folder(bundle.path, replace=True):
        pass
    assert (bundle.path / "new").exists()
