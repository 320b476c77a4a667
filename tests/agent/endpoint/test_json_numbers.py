"""Long JSON lists become arrays exactly as short ones do, and in bounded memory."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeexit.agent.endpoint import json_numbers, tensors
from edgeexit.agent.endpoint.codec import decode_request
from edgeexit.agent.endpoint.tensors import datatype_of, tensor_from_json
from edgeexit.errors import ProtocolError
from tests.agent.endpoint.test_codec import AnyTensor

shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
arrays = st.sampled_from(["?", "i1", "<i4", "<i8", "<u8", "<f4", "<f8"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, shapes, elements={"allow_nan": False, "allow_infinity": False} if "f" in dtype else None
    )
)


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode every list in chunks."""
    monkeypatch.setattr(json_numbers, "_CHUNK_BYTES", 120)
    monkeypatch.setattr(tensors, "_LONG_BYTES", 0)


@settings(deadline=None)
@given(array=arrays, nested=st.booleans(), indent=st.sampled_from([None, 0, 3]))
def test_a_list_in_chunks_is_decoded_bit_for_bit(array: Any, *, nested: bool, indent: int | None) -> None:
    text = json.dumps(array.tolist() if nested else array.ravel().tolist(), indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_numbers, "_CHUNK_BYTES", 120)
        patch.setattr(tensors, "_LONG_BYTES", 0)
        found = tensor_from_json("a", datatype_of(array.dtype), array.shape, memoryview(text))
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [4], [1, 2, 3]),
        ("FP32", [2], [1, 2, 3]),
        ("FP32", [2, 2], [[1, 2], [3]]),
        ("FP32", [2, 2], [[1, 2, 3], [4]]),
        ("FP32", [2, 2], [[1], [2, 3, 4]]),
        ("FP32", [2, 2], [[1, 2, 3, 4]]),
        ("FP32", [4, 1], [[1, 2], [3, 4]]),
        ("FP32", [2], [1, "2"]),
        ("FP32", [2], [1, "],["]),
        ("FP32", [2], [1, None]),
        ("FP32", [2], [1, {}]),
        ("FP32", [2], [1, [2]]),
        ("FP32", [0], []),
        ("FP32", [2**40, 2**40], [1, 2]),
        ("INT8", [2], [1, 128]),
        ("INT8", [2], [1, 1.5]),
        ("UINT64", [2], [1, -1]),
        ("UINT64", [2], [1, 2**64]),
        ("BOOL", [2], [True, 1]),
    ],
)
def test_a_list_that_does_not_fit_is_refused(datatype: str, shape: list[int], data: Any) -> None:
    with pytest.raises(ProtocolError, match=f"the data of input 'a' is not {datatype}"):
        tensor_from_json("a", datatype, shape, memoryview(json.dumps(data).encode()))


MEBIBYTE = 2**20
LENGTH = MEBIBYTE // 2


def tensor(data: bytes, shape: list[int], datatype: str = "FP32") -> bytes:
    head = json.dumps({"name": "a", "shape": shape, "datatype": datatype})[:-1].encode()
    return b'{"inputs": [' + head + b', "data": ' + data + b"}]}"


@pytest.mark.parametrize(
    "body",
    [
        tensor(b"[" + b",".join([b"1"] * LENGTH) + b"]", [1, LENGTH]),
        tensor(b"[" + b",".join([b"1"] * LENGTH) + b"]", [1, LENGTH - 1]),
        tensor(b"[" + b",".join([b"[1]"] * (LENGTH // 2)) + b"]", [LENGTH // 2, 1]),
        tensor(b"[" + b",".join([b"300"] * (LENGTH // 2)) + b"]", [1, LENGTH // 2], "INT64"),
        tensor(b"[" + b",".join([b'""'] * (LENGTH // 2)) + b"]", [1, LENGTH // 2]),
        b'{"inputs": [], "outputs": [' + b",".join([b'{"name":""}'] * (LENGTH // 6)) + b"]}",
        b'{"inputs": [' + b",".join([b'{"name":"a","shape":[],"datatype":"FP32"}'] * (LENGTH // 21)) + b"]}",
        b'{"inputs": [{"name": "a", "shape": [' + b",".join([b"999"] * (LENGTH // 2)) + b'], "datatype": "FP32"}]}',
    ],
)
def test_a_body_takes_at_most_five_times_its_size_while_it_is_decoded(body: bytes) -> None:
    tracemalloc.start()
    try:
        decode_request(body, None, inputs=AnyTensor("a"))
    except ProtocolError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 5 * len(body)


def test_a_tensor_that_the_model_does_not_take_is_refused_before_its_data_is_decoded() -> None:
    class Refuses(AnyTensor):
        def check(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
            raise ProtocolError(f"{name} {dtype} {shape}")

    body = tensor(b"[" + b",".join([b"1"] * LENGTH) + b"]", [1, LENGTH])
    tracemalloc.start()
    with pytest.raises(ProtocolError, match=rf"a float32 \(1, {LENGTH}\)"):
        decode_request(body, None, inputs=Refuses("a"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(body) / 10


def test_numbers_keep_their_precision_in_a_long_list() -> None:
    values = np.random.default_rng(0).standard_normal(20_000)
    text = json.dumps(values.tolist()).encode()
    np.testing.assert_array_equal(tensor_from_json("a", "FP64", [20_000], memoryview(text)), values)
