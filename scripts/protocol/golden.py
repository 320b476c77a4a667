"""Builds the golden messages: payloads with the result that every implementation must have for them."""

import msgspec
from cryptography.hazmat.primitives import serialization
from example_messages import BUNDLE, COHORT, DEVICE, FLEET, KEY_NAMES, SHARD, START, TOPICS, test_key
from golden_invalid import invalid_vectors
from golden_valid import valid_vectors
from vector import Vector


def golden_files() -> dict[str, bytes]:
    """Return the content of every file in docs/protocol/golden, by its path there."""
    vectors = [*valid_vectors(), *invalid_vectors()]
    files = {vector.file: vector.payload for vector in vectors}
    for name in KEY_NAMES:
        private = test_key(name)
        files[f"keys/TEST-ONLY-{name}.key"] = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        files[f"keys/TEST-ONLY-{name}.pub"] = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    return files | {"index.json": _index(vectors)}


def _index(vectors: list[Vector]) -> bytes:
    rows = [
        {
            "file": vector.file,
            "channel": vector.channel,
            "topic": TOPICS[vector.channel],
            "valid": vector.error is None,
            "why": vector.why,
            **({} if vector.error is None else {"error": vector.error}),
        }
        for vector in vectors
    ]
    names = {
        "recipient": {"fleet": FLEET, "shard": SHARD, "device": DEVICE, "cohort": COHORT, "bundle": BUNDLE},
        "start": START,
        "exits": 3,
        "classes": 10,
        "trusted": {"policy": "calibrator", "heartbeat": "calibrator", "command": "operator", "root": "root"},
    }
    return msgspec.json.format(msgspec.json.encode({**names, "messages": rows}), indent=1) + b"\n"
