"""Golden samples: only the declared arrays are read, and no header makes them larger than the file."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from edgeexit.bundle import GOLDEN
from edgeexit.errors import BundleError
from tests.bundle.rewriting import with_matching_manifest
from tests.bundles import make_bundle


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


def npy(array, **options):
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asanyarray(array), **options)
    return content.getvalue()


def rewrite(bundle, change=len, *, write=None):
    """Change the members of the golden samples (name -> bytes), and write them again with a matching manifest."""
    with zipfile.ZipFile(bundle.path / GOLDEN) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(bundle.path / GOLDEN, "w") as archive:
        for name, content in members.items():
            if write is None or not write(archive, name, content):
                archive.writestr(name, content)
    return with_matching_manifest(bundle)


def header(shape, dtype="<f4"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_arrays_in_either_order_of_their_elements_are_read(bundle):
    before = bundle.golden()
    in_order = npy(np.asfortranarray(before.inputs["x"]))
    assert b"'fortran_order': True" in in_order
    again = rewrite(bundle, lambda members: members.update({"input.x.npy": in_order})).golden()
    assert np.array_equal(again.inputs["x"], before.inputs["x"])
    assert again.exits.keys() == before.exits.keys()


class Exploit:
    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def put(content, name="exit.e1.npy"):
    return lambda members: members.update({name: content})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put(npy(np.zeros(1)), "extra.npy"), "extra"),
        (put(npy(np.zeros(1)), "../x.npy"), r"\.\./x"),
        (lambda members: members.pop("exit.e1.npy"), r"instead of .*exit\.e1"),
        (put(npy(np.array([Exploit()], dtype=object), allow_pickle=True)), r"exit\.e1\.npy is object"),
        (put(pickle.dumps(Exploit())), "no valid header: the magic string"),
        (put(npy(np.zeros((16, 5), "f4"))), r"instead of float32 \(\?, 4\)"),
        (put(npy(np.zeros((16, 4), "f8"))), "is float64"),
        (put(npy(np.zeros((16, 4), ">f4"))), "is >f4"),
        (put(npy(np.zeros((15, 4), "f4"))), "15, 16 samples"),
        (put(header((2**60, 4))), "do not fit its shape"),
        (put(header((-16, 4)) + bytes(256)), "instead of"),
        (put(header("(" * 300)), r"exit\.e1\.npy has no valid header"),
        (put(header("(" * 9000)), r"exit\.e1\.npy has no valid header"),
        (put(header((16, 4)) + bytes(255)), "do not fit its shape"),
        (put(b"\x93NUMPY\x03\x00" + bytes(400)), "unknown version"),
    ],
)
def test_a_member_that_is_not_as_declared_is_refused(bundle, change, named):
    with pytest.raises(BundleError, match=rf"golden\.npz is damaged: .*({named})"):
        rewrite(bundle, change).golden()


def test_a_compressed_member_is_refused_so_there_are_no_bombs(bundle):
    def deflate(archive, name, content):
        if name == "input.x.npy":
            archive.writestr(name, content + bytes(1 << 24), zipfile.ZIP_DEFLATED)
        return name == "input.x.npy"

    changed = rewrite(bundle, write=deflate)
    assert (changed.path / GOLDEN).stat().st_size < 1 << 20
    with pytest.raises(BundleError, match=r"overlap|compressed"):
        changed.golden()


def test_two_members_with_one_name_are_refused(bundle):
    def twice(archive, name, content):
        archive.writestr(name, content)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(name, content)
        return True

    with pytest.raises(BundleError, match="instead of"):
        rewrite(bundle, write=twice).golden()


def test_a_directory_of_many_members_is_refused_before_it_is_read(bundle):
    def more(archive, name, content):
        for number in range(50):
            archive.writestr(f"{name}{number}".ljust(60, "x"), b"")
        return False

    with pytest.raises(BundleError, match=r"directory of [0-9,]+ bytes is too large for 4 arrays"):
        rewrite(bundle, write=more).golden()


def test_a_second_directory_is_refused_before_it_is_read(bundle):
    content = (bundle.path / GOLDEN).read_bytes()
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *[0] * 7, 1, *[0] * 6) + b"A"
    count, size = 1000, 1000 * len(entry)
    large_end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, len(content))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(content) + size, 1)
    (bundle.path / GOLDEN).write_bytes(content + count * entry + large_end + locator + content[-22:])
    with pytest.raises(BundleError, match="directory for archives of more than 2 GiB"):
        with_matching_manifest(bundle).golden()


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip", b"PK\5\6" + bytes(18), b"PK\5\6" + b"\xff" * 18])
def test_a_file_that_is_no_archive_is_refused(bundle, content):
    (bundle.path / GOLDEN).write_bytes(content)
    with pytest.raises(BundleError, match=r"golden\.npz is damaged"):
        with_matching_manifest(bundle).golden()
