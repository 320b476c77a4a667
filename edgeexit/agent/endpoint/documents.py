"""The documents of the protocol's metadata calls: server, model and repository index."""

import msgspec

from edgeexit import __version__
from edgeexit.agent.endpoint.tensors import datatype_of
from edgeexit.bundle.manifest import COMPANION_PREFIX, Manifest, TensorSpec


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


class RepositoryEntry(msgspec.Struct, frozen=True):
    """One entry of `POST /v2/repository/index`."""

    name: str
    version: str
    state: str
    reason: str = ""


def server_metadata() -> ServerMetadata:
    """Return name, version and protocol extensions of this server."""
    return ServerMetadata(name="edgeexit", version=__version__, extensions=("binary_tensor_data", "model_repository"))


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


def _tensor_metadata(spec: TensorSpec) -> TensorMetadata:
    return TensorMetadata(spec.name, datatype_of(spec.dtype), (-1, *_shape(spec.shape)[1:]))


def _shape(shape: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(-1 if isinstance(size, str) else size for size in shape)
