"""Check before anything is copied that the agent will accept the bundle's signature."""

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from edgeexit.bundle import Bundle
from edgeexit.deploy.configuration import ReleaseConfiguration
from edgeexit.deploy.device import Device
from edgeexit.deploy.payload import PayloadFile
from edgeexit.deploy.remote.documents import KeyDocument, KeysArguments
from edgeexit.deploy.steps import KEYS
from edgeexit.errors import BundleError, DeployError, SignatureError
from edgeexit.signing import PublicKey, decode_public_key


def check_signature(bundle: Bundle, configuration: ReleaseConfiguration, device: Device | None = None) -> None:
    """Verify that a key which the configuration trusts signed the bundle.

    Nothing is checked if the bundle is not signed and need not be, or if the configuration trusts no key. Keys that are
    on the device only are read from there; without `device`, a configuration with such keys is not checked.

    Raises DeployError if the bundle must be signed and is not, if no trusted key signed it, or if a key cannot be read.
    """
    if not bundle.is_signed:
        if configuration.signed_bundle:
            raise DeployError(
                f"the configuration has signed_bundle = true, but bundle '{bundle.path}' is not signed; run "
                "`edgeexit sign`"
            )
        return
    files = {file.name: file for file in configuration.files}
    local = {name: file for name in configuration.bundle_keys if (file := _local_file(files, name)) is not None}
    remote = [name for name in configuration.bundle_keys if name not in local]
    if not configuration.bundle_keys or (remote and device is None):
        return
    keys = [_local_key(name, file) for name, file in local.items()]
    if remote and device is not None:
        keys += [_remote_key(document) for document in device.call(KEYS, KeysArguments(paths=remote))["keys"]]
    _verify(bundle, keys)


def _verify(bundle: Bundle, keys: Sequence[PublicKey]) -> None:
    try:
        bundle.verify_signature(keys)
    except BundleError as error:
        raise DeployError(
            f"{error}; the device's configuration (trusted_keys, bundle_keys) does not accept this bundle, so nothing "
            "was copied"
        ) from error


def _local_file(files: dict[str, PayloadFile], name: str) -> PayloadFile | None:
    file = files.get(str(PurePosixPath(name)))
    return None if file is None or file.source is None else file


def _local_key(name: str, file: PayloadFile) -> PublicKey:
    return _decode(name, lambda: b"" if file.source is None else b"".join(file.source.chunks()))


def _remote_key(document: KeyDocument) -> PublicKey:
    path = document["path"]
    if document["error"] is not None:
        raise DeployError(f"the key '{path}' on the device, which may sign bundles: {document['error']}")
    return _decode(path, lambda: "\n".join([*document["lines"], ""]).encode())


def _decode(name: str, content: Callable[[], bytes]) -> PublicKey:
    try:
        return decode_public_key(content(), name=name)
    except SignatureError as error:
        raise DeployError(f"a key that may sign bundles cannot be used: {error}") from error
