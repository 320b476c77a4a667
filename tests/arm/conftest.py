"""An emulated aarch64 machine for the whole session, the wheels for it, and a bundle compiled for it on the host."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.npz import save_arrays
from edgeexit.signing import generate_key
from tests.arm.emulation import aarch64_programs
from tests.arm.machine import Machine
from tests.arm.userland import cached_userland, python_version
from tests.arm.wheels import build_wheel, fill_wheelhouse
from tests.broker import RealBroker


@pytest.fixture(scope="session")
def cache() -> Path:
    """Folder for downloads that all runs share."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeexit-tests"


@pytest.fixture(scope="session")
def userland(cache: Path) -> Path:
    return cached_userland(cache)


@pytest.fixture(scope="session")
def machine(userland: Path) -> Iterator[Machine]:
    """A machine with only Debian's Python and SSH server."""
    # not in pytest's folder, which keeps the folders of three runs
    with aarch64_programs(), tempfile.TemporaryDirectory(prefix="edgeexit-arm-") as folder:
        yield Machine.copied_from(userland, Path(folder) / "root")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout's wheel."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def wheelhouse(cache: Path, userland: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, and the aarch64 wheels of its dependencies."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    fill_wheelhouse(wheel, folder, cache=cache, python=python_version(userland))
    return folder


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Images [48, 3, 16, 16] float32, each with a different tint, so that they exit at different exits."""
    generator = np.random.default_rng(5)
    tints = 3 * generator.standard_normal((48, 3, 1, 1))
    return (generator.standard_normal((48, 3, 16, 16)) + tints).astype(np.float32)


@pytest.fixture(scope="session")
def bundle(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A convolutional network with three exits, compiled on the host for any 64-bit Arm processor."""
    from edgeexit.compiler import CompileOptions, compile_bundle  # noqa: PLC0415 - torch is imported only if a test needs it
    from tests.arm.network import ThreeExits  # noqa: PLC0415

    out = tmp_path_factory.mktemp("bundles") / "three-exits"
    return compile_bundle(ThreeExits(), out, CompileOptions(target="arm64-cpu", example={"image": images}))


@pytest.fixture(scope="session")
def samples(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the images."""
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    save_arrays(path, {"image": images})
    return path


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBroker]:
    """A broker that runs on the host."""
    real = RealBroker(tmp_path_factory.mktemp("broker"))
    real.start()
    yield real
    real.stop()


@pytest.fixture(scope="session")
def public_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The calibrator's public key; the private key is in the same folder."""
    return generate_key(tmp_path_factory.mktemp("keys") / "calibrator.pem")
