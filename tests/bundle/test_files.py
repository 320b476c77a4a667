"""The files of a bundle: only regular files, of the stated size, used as the bytes that were verified."""

import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from edgeexit.backends.onnxruntime import sessions
from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner
from edgeexit.signing import generate_key, load_private_key, load_public_key
from tests.bundle.rewriting import WEIGHTS, copy_of, with_weights_file
from tests.bundles import make_bundle, make_samples

SAMPLES = make_samples(5)


@pytest.fixture
def bundle(tmp_path):
    built = make_bundle(tmp_path / "bundle")
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.9, 0.8))
    built.write_policy(PolicyDocument(bundle=built.digest, revision=0, policy=policy))
    return built


@pytest.fixture
def keys(tmp_path):
    public = generate_key(tmp_path / "maker.key")
    return load_private_key(tmp_path / "maker.key"), load_public_key(public)


def link(path: Path, moved: Path) -> None:
    path.symlink_to(moved)


def fifo(path: Path, _: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    path.mkdir()


def device(path: Path, _: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path, _: Path) -> None:
    short = os.open(path.parent, os.O_RDONLY)  # the path of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(f"/proc/self/fd/{short}/{path.name}")
    os.close(short)


@pytest.mark.parametrize("name", ["manifest.json", "stage1.onnx", "golden.npz", "policy.json", "signature.json"])
@pytest.mark.parametrize("make", [link, fifo, folder, device, unix_socket])
def test_a_file_that_is_not_regular_is_refused_without_waiting_for_it(bundle, keys, tmp_path, name, make):
    bundle.sign(keys[0])
    path = bundle.path / name
    path.rename(tmp_path / "moved")
    make(path, tmp_path / "moved")
    with pytest.raises(BundleError, match=rf"{name}.* is a .*, not a regular file"):
        Bundle.open(bundle.path, trusted_keys=[keys[1]])


def test_the_folder_of_the_bundle_may_be_a_link(bundle, tmp_path):
    (tmp_path / "current").symlink_to(bundle.path)
    opened = Bundle.open(tmp_path / "current")
    with Runner(opened) as runner:
        assert runner.infer_every_exit(SAMPLES).outputs["e2"].shape == (5, 4)


def test_a_hard_link_is_a_regular_file(bundle, tmp_path):
    os.link(bundle.path / "stage0.onnx", tmp_path / "same")
    Bundle.open(bundle.path)


def test_a_file_of_another_size_is_refused_before_it_is_read(bundle):
    with (bundle.path / "golden.npz").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: reading it would take minutes
    with pytest.raises(BundleError, match=r"golden\.npz: it has 1,099,511,627,776 bytes instead of [0-9,]+; copy"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("name", ["manifest.json", "policy.json", "profile.json", "signature.json", "profile.sig"])
def test_a_json_file_above_its_limit_is_refused_before_it_is_read(bundle, keys, name):
    if name == "profile.sig":
        (bundle.path / "profile.json").write_bytes((bundle.path / "policy.json").read_bytes())
    bundle.sign(keys[0])
    with (bundle.path / name).open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match=rf"{name}.* is larger than the [0-9,]+ bytes allowed"):
        Bundle.open(bundle.path, trusted_keys=[keys[1]])


def test_a_file_that_grows_while_it_is_read_is_refused(bundle):
    chunks = bundle.read_chunks("stage0.onnx")
    next(chunks)
    with (bundle.path / "stage0.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(BundleError, match=r"stage0\.onnx: it changed its size while it was read"):
        list(chunks)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("name", ["stage1.onnx", "golden.npz", WEIGHTS])
def test_a_file_that_is_swapped_after_the_bundle_was_opened_is_not_used(tmp_path, name, in_place):
    opened, other = (with_weights_file(make_bundle(tmp_path / f"{n}", seed=n, classes=4 + n)) for n in (0, 1))
    replace(opened.path / name, (other.path / name).read_bytes(), in_place=in_place)
    with pytest.raises(BundleError, match=f"{name}.*copy the bundle again"), Runner(opened) as runner:
        runner.infer_every_exit(opened.golden().inputs)


@pytest.mark.parametrize("in_place", [True, False])
def test_files_that_are_swapped_while_the_bundle_runs_change_nothing(tmp_path, in_place):
    opened, other = (with_weights_file(make_bundle(tmp_path / f"{seed}", seed=seed)) for seed in (0, 1))
    with Runner(opened) as runner:
        before = runner.infer_every_exit(SAMPLES).outputs
        for file in other.path.iterdir():
            replace(opened.path / file.name, file.read_bytes(), in_place=in_place)
        after = runner.infer_every_exit(SAMPLES).outputs
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_thread_that_swaps_files_all_the_time_never_gets_its_own_content_run(tmp_path, in_place):
    good, bad = (with_weights_file(make_bundle(tmp_path / f"{seed}", seed=seed)) for seed in (0, 1))
    with Runner(good) as runner:
        expected = runner.infer_every_exit(SAMPLES).outputs
    victim = copy_of(good, tmp_path / "victim")
    contents = [(each.path / WEIGHTS).read_bytes() for each in (bad, good)]
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for content in contents:
                replace(victim.path / WEIGHTS, content, in_place=in_place)
                done.wait(0.001)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(40):
            try:
                with Runner(Bundle.open(victim.path)) as runner:
                    found = runner.infer_every_exit(SAMPLES).outputs
            except BundleError:
                continue
            assert all(np.array_equal(expected[name], found[name]) for name in expected)
    finally:
        done.set()
        thread.join()


def test_the_policy_that_a_signature_covers_cannot_be_swapped_after_the_bundle_was_opened(bundle, keys):
    bundle.sign(keys[0])
    opened = Bundle.open(bundle.path, trusted_keys=[keys[1]])
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.1, 0.1))
    other = PolicyDocument(bundle=bundle.digest, revision=0, policy=policy)
    signature = (bundle.path / "signature.json").read_bytes()
    bundle.write_policy(other)
    (bundle.path / "signature.json").write_bytes(signature)
    with pytest.raises(BundleError, match=r"policy\.json does not match the signature"):
        opened.policy()


@pytest.mark.parametrize("max_copied_bytes", [0, 1 << 20])
def test_weights_in_a_file_give_the_same_logits_whether_they_are_read_or_mapped(
    tmp_path, monkeypatch, max_copied_bytes
):
    monkeypatch.setattr(sessions, "_MAX_COPIED_BYTES", max_copied_bytes)
    plain = make_bundle(tmp_path / "plain")
    stored = with_weights_file(make_bundle(tmp_path / "stored"))
    assert WEIGHTS in stored.manifest.files
    with Runner(plain) as first, Runner(stored) as second:
        expected, found = (runner.infer_every_exit(SAMPLES).outputs for runner in (first, second))
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_weights_that_are_overwritten_while_sessions_open_are_refused_although_they_are_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "_MAX_COPIED_BYTES", 0)
    stored = with_weights_file(make_bundle(tmp_path / "stored"))
    path = stored.path / WEIGHTS
    create = sessions.StageSession.__init__

    def create_and_overwrite(self, *arguments, **options):
        create(self, *arguments, **options)
        path.write_bytes(bytes(len(path.read_bytes())))

    monkeypatch.setattr(sessions.StageSession, "__init__", create_and_overwrite)
    with pytest.raises(BundleError, match=r"weights\.bin was overwritten"):
        Runner(stored).__enter__()


def replace(path: Path, content: bytes, *, in_place: bool) -> None:
    """Overwrite a file, or put another one in its place."""
    if in_place:
        path.write_bytes(content)
        return
    other = path.with_suffix(".new")
    other.write_bytes(content)
    other.replace(path)
