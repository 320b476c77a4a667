"""The documents of the protocol's metadata calls: server, model, Triton's model configuration and repository index."""

import msgspec

from edgeexit import __version__
from edgeexit.agent.endpoint.tensors import datatype_of
from edgeexit.bundle.manifest import COMPANION_PREFIX, Manifest, TensorSpec
from edgeexit.wire import State


class ServerMetadata(msgspec.Struct, frozen=True):
    """`GET /v2`."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or output tensor; -1 is a dynamic dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """`GET /v2/models/{name}`."""

    name: str
    versions: tuple[str, ...]
    """The bundle's digest."""
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class TensorConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """An input or output tensor in Triton's model configuration."""

    name: str
    data_type: str
    """`TYPE_` and the datatype of the protocol."""
    dims: tuple[int, ...]
    """Without the dimension of the batch; -1 is a dynamic dimension."""
    reshape: dict[str, tuple[int, ...]] | None = None
    """How Triton describes a tensor that has no other dimension than that of the batch."""


class ModelConfiguration(msgspec.Struct, frozen=True):
    """`GET /v2/models/{name}/config`: the fields of Triton's model configuration that have a meaning here.

    github.com/triton-inference-server/server, docs/protocol/extension_model_configuration.md
    """

    name: str
    platform: str
    backend: str
    version_policy: dict[str, dict[str, int]]
    max_batch_size: int
    """Maximum samples of a request while others are pending."""
    input: tuple[TensorConfig, ...]
    output: tuple[TensorConfig, ...]
    dynamic_batching: dict[str, int]


class StatusDocument(msgspec.Struct, frozen=True):
    """`GET /edgeexit/v1/status`: what an operator on the device wants to know about the connection to the fleet."""

    fleet: str
    device: str
    connection: str | None
    """Why the agent is not connected to the broker, or what the broker does not allow; null if all is well."""
    unacknowledged: int
    """Reports and audits that the calibrator has not acknowledged."""
    state: State
    """The message `up/state` of docs/protocol.md."""


class RepositoryEntry(msgspec.Struct, frozen=True):
    """One entry of `POST /v2/repository/index`."""

    name: str
    version: str
    state: str
    reason: str = ""


def server_metadata() -> ServerMetadata:
    """Return name, version and protocol extensions of this server."""
    return ServerMetadata(
        name="edgeexit",
        version=__version__,
        extensions=("binary_tensor_data", "model_configuration", "model_repository", "statistics"),
    )


def model_metadata(manifest: Manifest, digest: str) -> ModelMetadata:
    """Return the input and output tensors of a bundle.

    Raises ProtocolError for an input or companion whose dtype the protocol does not define.
    """
    exit_shape = manifest.stages[-1].exit.shape
    return ModelMetadata(
        name=manifest.model,
        versions=(digest,),
        platform="edgeexit",
        inputs=tuple(_tensor_metadata(spec) for spec in manifest.inputs),
        outputs=(
            TensorMetadata("predictions", "INT64", (-1,)),
            TensorMetadata("exits", "INT64", (-1,)),
            TensorMetadata("outputs", "FP32", (-1, *_shape(exit_shape)[1:])),
            TensorMetadata("readouts", "FP32", (-1, 4)),
            TensorMetadata("latency_ms", "FP64", (-1,)),
            *(
                _tensor_metadata(msgspec.structs.replace(spec, name=f"{COMPANION_PREFIX}{name}"))
                for name, spec in manifest.stages[-1].companions.items()
            ),
        ),
    )


def model_configuration(model: ModelMetadata, *, max_waiting: int, max_delay_ms: float) -> ModelConfiguration:
    """Return what Triton's clients read: the tensors without the dimension of the batch, and how batches are formed."""
    return ModelConfiguration(
        name=model.name,
        platform=model.platform,
        backend=model.platform,
        version_policy={"latest": {"num_versions": 1}},
        max_batch_size=max_waiting,
        input=tuple(_tensor_config(tensor) for tensor in model.inputs),
        output=tuple(_tensor_config(tensor) for tensor in model.outputs),
        dynamic_batching={"max_queue_delay_microseconds": round(max_delay_ms * 1000)},
    )


def _tensor_config(tensor: TensorMetadata) -> TensorConfig:
    dims = tensor.shape[1:]
    return TensorConfig(
        name=tensor.name,
        data_type=f"TYPE_{tensor.datatype}",
        dims=dims or (1,),
        reshape=None if dims else {"shape": ()},
    )


def _tensor_metadata(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(spec.name, datatype_of(spec.dtype), (-1, *_shape(spec.shape)[1:]))


def _shape(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(-1 if isinstance(size, str) else size for size in shape)
