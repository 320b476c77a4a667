"""Message types for reading ONNX files on a device without the package `onnx`.

ONNX Runtime depends on `protobuf`, whose messages preserve fields that their type does not declare. So a reader
declares only the fields that it reads, with the names and numbers of onnx.proto.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
except ModuleNotFoundError as error:  # its name would be `google`, which is no package that a user can install
    raise ModuleNotFoundError("No module named 'google.protobuf'", name="protobuf") from error

_SCALARS: Final = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
}

Fields = Mapping[str, Sequence[tuple[str, int, str]]]
"""Message type -> its fields: name, number, and type, which ends in [] if the field is repeated."""


def make_model_type(fields: Fields) -> Any:
    """Return the class of ModelProto, in a new descriptor pool, because the package `onnx` uses the default pool."""
    file = descriptor_pb2.FileDescriptorProto(name="model.proto", package="model")
    for type_name, declared_fields in fields.items():
        declared = file.message_type.add(name=type_name)
        for name, number, declared_type in declared_fields:
            kind = declared_type.removesuffix("[]")
            field = declared.field.add(name=name, number=number)
            field.label = field.LABEL_REPEATED if declared_type.endswith("[]") else field.LABEL_OPTIONAL
            field.type = _SCALARS.get(kind, field.TYPE_MESSAGE)
            if kind not in _SCALARS:
                field.type_name = f".model.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("model.ModelProto"))


def parse_model(model_type: Any, content: bytes) -> Any:
    """Return the message in the bytes of an ONNX file. Raises ValueError if they are not one."""
    parsed = model_type()
    try:
        parsed.ParseFromString(content)
    except message.DecodeError as error:
        raise ValueError(f"these {len(content)} bytes are not an ONNX model: {error}") from error
    return parsed
