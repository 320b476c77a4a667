"""Decoding and encoding: valid requests are decoded exactly, and invalid requests are refused."""

import contextlib
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeexit.agent.endpoint.codec import (
    OUTPUTS,
    RequestedOutput,
    decode_feedback,
    decode_request,
    encode_response,
)
from edgeexit.agent.endpoint.tensors import datatype_of
from edgeexit.errors import ProtocolError
from edgeexit.runtime import Inference


class AnyTensor:
    """A model that takes tensors of any dtype and shape."""

    def __init__(self, *names: str, are_floats: bool = False) -> None:
        self.names = names
        self.are_floats = are_floats

    def check(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
        pass


DTYPES = ["?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8"]

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
arrays = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, shapes))
finite = st.sampled_from([dtype for dtype in DTYPES if dtype != "<f2"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, shapes, elements={"allow_nan": False, "allow_infinity": False} if "f" in dtype else None
    )
)


def tensor(name: str, array: Any, **rest: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": datatype_of(array.dtype), **rest}


def binary(*named: tuple[str, Any]) -> tuple[bytes, int]:
    header = json.dumps(
        {"inputs": [tensor(name, array, parameters={"binary_data_size": array.nbytes}) for name, array in named]}
    ).encode()
    return header + b"".join(array.tobytes() for _, array in named), len(header)


def assert_same(found: Any, expected: Any) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes(), "bit for bit"


@given(arrays, arrays)
def test_binary_tensors_are_decoded_bit_for_bit(first: Any, second: Any) -> None:
    body, length = binary(("a", first), ("b", second))
    request = decode_request(body, length, inputs=AnyTensor("a", "b"))
    assert_same(request.inputs["a"], first)
    assert_same(request.inputs["b"], second)


@given(array=finite, nested=st.booleans())
def test_json_tensors_are_decoded_nested_or_flat(array: Any, *, nested: bool) -> None:
    data = array.tolist() if nested and array.ndim else array.ravel().tolist()
    body = json.dumps({"inputs": [tensor("a", array, data=data)]}, indent=1).encode()
    assert_same(decode_request(body, None, inputs=AnyTensor("a")).inputs["a"], array)


@given(
    array=finite,
    layout=st.sampled_from(["nested", "flat", "binary", "both", "neither"]),
    change=st.sampled_from([0, 0, 1, -1]),
)
def test_the_model_s_dtypes_do_not_change_what_a_request_means(array: Any, layout: str, change: int) -> None:
    flat = [*array.ravel().tolist(), 0][: array.size + change]
    data = array.tolist() if layout == "nested" and array.ndim else flat
    is_binary = layout in {"binary", "both"}
    fields = {} if layout in {"binary", "neither"} else {"data": data}
    if is_binary:
        fields["parameters"] = {"binary_data_size": array.nbytes}
    header = json.dumps({"inputs": [tensor("a", array, **fields)]}).encode()
    body, length = header + (array.tobytes() if is_binary else b""), len(header)
    assert decoded_or_error(body, length, are_floats=False) == decoded_or_error(body, length, are_floats=True)


def decoded_or_error(body: bytes, length: int, *, are_floats: bool) -> Any:
    try:
        (found,) = decode_request(body, length, inputs=AnyTensor("a", are_floats=are_floats)).inputs.values()
    except ProtocolError as error:
        return str(error)
    return found.dtype, found.shape, found.tobytes()


def inference(batch: int, exit_shape: tuple[int, ...], generator: np.random.Generator) -> Inference:
    return Inference(
        predictions=generator.integers(0, 9, batch),
        exits=generator.integers(0, 3, batch),
        outputs=generator.standard_normal((batch, *exit_shape)).astype(np.float32),
        readouts=generator.standard_normal((batch, 4)).astype(np.float32),
        scores=np.zeros((batch, 3), dtype=np.float32),
        latency_ms=generator.random(batch),
        stage_ms=(),
        decide_ms=(),
    )


@given(
    st.integers(1, 5),
    st.sampled_from([(3,), (2, 3, 2)]),
    st.lists(st.sampled_from(OUTPUTS), unique=True, min_size=1),
    st.data(),
)
def test_a_response_contains_the_requested_outputs_in_their_order(
    batch: int, exit_shape: tuple[int, ...], names: list[str], data: Any
) -> None:
    result = inference(batch, exit_shape, np.random.default_rng(batch))
    requested = [RequestedOutput(name, data.draw(st.booleans())) for name in names]
    parameters = {"revision": 7, "policy": "confidence"}
    body, length = encode_response(result, requested, model="m", version="v", request_id="x", parameters=parameters)
    header = json.loads(body if length is None else body[:length])
    assert (header["model_name"], header["model_version"], header["id"]) == ("m", "v", "x")
    assert header["parameters"] == parameters
    assert [output["name"] for output in header["outputs"]] == names
    rest = memoryview(body)[len(body) if length is None else length :]
    for output, (name, as_bytes) in zip(header["outputs"], requested, strict=True):
        expected = getattr(result, name)
        assert output["datatype"] == datatype_of(expected.dtype)
        if as_bytes:
            size = output["parameters"]["binary_data_size"]
            found = np.frombuffer(rest[:size], dtype=expected.dtype)
            rest = rest[size:]
        else:
            found = np.array(output["data"], dtype=expected.dtype)
        assert_same(found.reshape(output["shape"]), expected)
    assert not len(rest)


def test_nan_is_null_in_json() -> None:
    result = msgspec.structs.replace(inference(1, (2,), np.random.default_rng()), outputs=np.array([[np.nan, 1]], "f4"))
    body, _ = encode_response(
        result, [RequestedOutput("outputs", binary=False)], model="m", version="v", request_id=None, parameters={}
    )
    assert json.loads(body)["outputs"][0]["data"] == [None, 1.0]


GOOD = {"name": "a", "shape": [2], "datatype": "FP32", "data": [1, 2]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "b"}, "the model has no input 'b'; its inputs are a"),
        ({"datatype": "BYTES"}, "datatype 'BYTES'"),
        ({"datatype": "FP16"}, "FP16, which JSON cannot represent"),
        ({"shape": [3]}, "number of elements is 2"),
        ({"shape": [-2]}, "shape"),
        ({"shape": [2] * 17}, "shape"),
        ({"shape": [2**62, 2**62]}, "number of elements is 2"),
        ({"data": None}, "neither data nor binary_data_size"),
        ({"data": [None, 1]}, "the data of input 'a' is not FP32"),
        ({"data": ["x", "y"]}, "the data of input 'a' is not FP32"),
        ({"data": [[1], [2, 3]], "shape": [2, 2]}, "the data of input 'a' is not FP32"),
        ({"data": [[1], [2, 3, 4]], "shape": [2, 2]}, "the data of input 'a' is not FP32"),
        ({"data": [[1, 2, 3, 4]], "shape": [2, 2]}, r"shape \[1, 4\], but its shape is \[2, 2\]"),
        ({"data": [1.5, 2], "datatype": "INT8"}, "the data of input 'a' is not INT8"),
        ({"data": [1, 128], "datatype": "INT8"}, "in the range from -128 to 127"),
        ({"data": [0, -1], "datatype": "UINT64"}, "from 0 to"),
        ({"data": [1, 0], "datatype": "BOOL"}, "the data of input 'a' is not BOOL"),
        ({"parameters": {"shared_memory_region": "r"}}, "shared memory"),
        ({"parameters": {"binary_data_size": 8}}, "both data and binary_data_size"),
    ],
)
def test_an_inconsistent_tensor_is_refused_and_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ProtocolError, match=named):
        decode_request(json.dumps({"inputs": [{**GOOD, **change}]}).encode(), None, inputs=AnyTensor("a"))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ({"name": "x" * 100_000}, "outputs"),
        ({"datatype": "x" * 100_000}, "outputs"),
        ({"shape": [10**400]}, "outputs"),
        ({}, "x" * 100_000),
    ],
)
def test_an_error_repeats_little_of_the_request(inputs: dict[str, Any], outputs: str) -> None:
    body = json.dumps({"inputs": [{**GOOD, **inputs}], "outputs": [{"name": outputs}]}).encode()
    with pytest.raises(ProtocolError) as caught:
        decode_request(body, None, inputs=AnyTensor("a"))
    assert len(str(caught.value)) < 400


def test_a_shape_too_large_for_memory_is_refused() -> None:
    huge = {"name": "a", "shape": [10**4000] * 2, "datatype": "FP32", "parameters": {"binary_data_size": 4}}
    header = json.dumps({"inputs": [huge]}).encode()
    with pytest.raises(ProtocolError, match="shape"):
        decode_request(header + b"1234", len(header), inputs=AnyTensor("a"))


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"inputs": [{k: v for k, v in GOOD.items() if k != "data"}]}, "neither data nor binary_data_size"),
        ({"inputs": [GOOD, GOOD]}, "given twice"),
        ({}, "inputs"),
        ({"inputs": [GOOD], "id": "x" * 257}, "id"),
        (
            {"inputs": [GOOD], "outputs": [{"name": "logits"}]},
            "there is no output 'logits'; the outputs are predictions, exits, outputs, readouts, latency_ms",
        ),
        ({"inputs": [GOOD], "outputs": [{"name": "exits"}] * 2}, "requested twice"),
        (
            {"inputs": [GOOD], "outputs": [{"name": "exits", "parameters": {"classification": 3}}]},
            "classification and shared memory are not supported",
        ),
    ],
)
def test_an_invalid_request_is_refused(request_: dict[str, Any], named: str) -> None:
    with pytest.raises(ProtocolError, match=named):
        decode_request(json.dumps(request_).encode(), None, inputs=AnyTensor("a"))


@pytest.mark.parametrize("are_floats", [True, False])
def test_null_means_the_same_as_a_field_that_is_left_out(*, are_floats: bool) -> None:
    empty = {"parameters": None, "outputs": None, "id": None}
    requests = [
        {"inputs": [GOOD]},
        {"inputs": [{**GOOD, "parameters": None}], **empty},
        {"inputs": [{**GOOD, "parameters": {"binary_data_size": None, "shared_memory_region": None}}], **empty},
        {"inputs": [GOOD], "parameters": {"binary_data_output": None}, "outputs": []},
    ]
    for request in requests:
        found = decode_request(json.dumps(request).encode(), None, inputs=AnyTensor("a", are_floats=are_floats))
        assert (found.id, found.inputs["a"].tolist()) == (None, [1.0, 2.0])
        assert [output.name for output in found.outputs] == list(OUTPUTS)
    output = {"name": "exits", "parameters": None}
    named = decode_request(json.dumps({"inputs": [GOOD], "outputs": [output]}).encode(), None, inputs=AnyTensor("a"))
    assert named.outputs == (RequestedOutput("exits", binary=False),)


def test_null_beside_binary_data_is_not_data() -> None:
    tensor = {**GOOD, "data": None, "parameters": {"binary_data_size": 8}}
    header = json.dumps({"inputs": [tensor]}).encode()
    body = header + np.array([1, 2], "<f4").tobytes()
    assert decode_request(body, len(header), inputs=AnyTensor("a")).inputs["a"].tolist() == [1.0, 2.0]


def test_a_classification_of_zero_classes_is_a_tensor() -> None:
    request = {"inputs": [GOOD], "outputs": [{"name": "exits", "parameters": {"classification": 0}}]}
    assert decode_request(json.dumps(request).encode(), None, inputs=AnyTensor("a")).outputs[0].name == "exits"


@pytest.mark.parametrize("length", [-1, 10**9])
def test_a_header_length_beyond_the_body_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError, match="Inference-Header-Content-Length"):
        decode_request(b"{}", length, inputs=AnyTensor("a"))


@pytest.mark.parametrize("change", [-1, 1])
def test_too_few_or_too_many_bytes_are_refused(change: int) -> None:
    body, length = binary(("a", np.ones(2, "f4")))
    with pytest.raises(ProtocolError, match="bytes"):
        decode_request(body[:change] if change < 0 else body + b"x", length, inputs=AnyTensor("a"))


def test_a_bool_other_than_0_or_1_is_refused() -> None:
    header = json.dumps(
        {"inputs": [{"name": "a", "shape": [2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}}]}
    ).encode()
    with pytest.raises(ProtocolError, match="neither 0 nor 1"):
        decode_request(header + b"\x01\x02", len(header), inputs=AnyTensor("a"))


def test_large_integers_are_decoded_exactly() -> None:
    exact = [2**53 + 1, 2**64 - 1, 5]
    body = json.dumps({"inputs": [{"name": "a", "shape": [3], "datatype": "UINT64", "data": exact}]}).encode()
    assert decode_request(body, None, inputs=AnyTensor("a")).inputs["a"].tolist() == exact


def test_binary_outputs_can_be_requested_for_all_outputs_or_for_one() -> None:
    request = {
        "inputs": [GOOD],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "exits"}, {"name": "predictions", "parameters": {"binary_data": False}}],
    }
    found = decode_request(json.dumps(request).encode(), None, inputs=AnyTensor("a")).outputs
    assert found == (RequestedOutput("exits", binary=True), RequestedOutput("predictions", binary=False))
    del request["outputs"]
    found = decode_request(json.dumps(request).encode(), None, inputs=AnyTensor("a")).outputs
    assert found == tuple(RequestedOutput(name, binary=True) for name in OUTPUTS)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
almost_tensor = st.fixed_dictionaries(
    {"name": st.just("a") | junk, "shape": st.lists(st.integers(-1, 4), max_size=3) | junk},
    optional={
        "datatype": st.sampled_from(["FP32", "INT64", "BOOL", "FP16", "UINT8"]) | junk,
        "data": st.lists(st.integers(-300, 300) | st.floats() | st.lists(st.integers(0, 2), max_size=2), max_size=4)
        | junk,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20) | junk}) | junk,
    },
)
almost_request = st.fixed_dictionaries(
    {"inputs": st.lists(almost_tensor, max_size=2) | junk},
    optional={
        "id": junk,
        "parameters": junk,
        "outputs": st.lists(st.fixed_dictionaries({"name": junk}), max_size=2) | junk,
    },
)


@given(almost_request, st.binary(max_size=24), st.integers(-2, 10))
def test_almost_valid_requests_are_decoded_or_refused_with_a_protocol_error(
    request_: Any, rest: bytes, shift: int
) -> None:
    header = json.dumps(request_).encode()
    check_decoded_or_refused(header + rest, len(header) + shift)


@given(st.binary(max_size=200), st.none() | st.integers(-2, 210))
def test_arbitrary_bytes_are_decoded_or_refused_with_a_protocol_error(body: bytes, length: int | None) -> None:
    check_decoded_or_refused(body, length)


def test_deeply_nested_json_is_refused_with_a_protocol_error() -> None:
    deep = b"[" * 100_000
    check_decoded_or_refused(b'{"inputs": ' + deep, None)
    check_decoded_or_refused(b'{"inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "data": ' + deep, None)


def check_decoded_or_refused(body: bytes, length: int | None) -> None:
    for are_floats in (False, True):
        with contextlib.suppress(ProtocolError):  # any other error fails the test
            decode_request(body, length, inputs=AnyTensor("a", are_floats=are_floats))
    with contextlib.suppress(ProtocolError):
        decode_feedback(body)


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "U3"])
def test_a_dtype_that_the_protocol_does_not_define_is_refused(dtype: str) -> None:
    with pytest.raises(ProtocolError, match="has no datatype"):
        datatype_of(dtype)
