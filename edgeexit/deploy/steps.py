"""The steps that run on the device, with the types of their arguments and replies, and how they are sent there."""

import shlex
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Generic, TypeVar

import msgspec

from edgeexit.deploy.remote.documents import (
    ActivateArguments,
    EmptyDocument,
    EnginesArguments,
    EnvironmentArguments,
    EnvironmentReply,
    FinishArguments,
    FinishReply,
    InventoryArguments,
    InventoryReply,
    KeysArguments,
    KeysReply,
    LockArguments,
    LockReply,
    ReceiveArguments,
    ReceiveReply,
    StatusArguments,
    StatusReply,
    WatchArguments,
    WatchReply,
)
from edgeexit.deploy.replies import ReplyT, clean_text, decode_message
from edgeexit.errors import DeployError

ArgumentsT = TypeVar("ArgumentsT")

_PACKAGE: Final = "edgeexit.deploy.remote"
_ALWAYS_SENT: Final = ("documents", "layout")
_SHOWN_BYTES: Final = 200
_HASHING_S: Final = 1800.0
"""Maximum time to hash all files of a deployment on a slow disk."""
_OPERATION_S: Final = 2000.0
"""Maximum time to wait for an earlier step, which the device itself limits to half an hour (remote/layout.py)."""
_INSTALL_S: Final = 3600.0
_BUILD_S: Final = 4 * 3600.0
RESULT_PREFIX: Final = b"edgeexit-result "
"""Start of the line of standard output in which a step sends its reply (`remote/layout.py`)."""

BOOTSTRAP: Final = """
import json, os, pathlib, sys, types
remaining, chunks = int(sys.argv[1]), []
while remaining:
    chunks.append(os.read(0, remaining))
    remaining = remaining - len(chunks[-1]) if chunks[-1] else sys.exit(1)
sent = json.loads(b"".join(chunks))
for name in ("edgeexit", "edgeexit.deploy", "edgeexit.deploy.remote"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, source in sent["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
layout = sys.modules["edgeexit.deploy.remote.layout"]
try:
    layout.check_owner(pathlib.Path(sent["root"]))
    reply = module.main(pathlib.Path(sent["root"]), sent["arguments"])
    if reply is not None:
        layout.send_reply(reply)
except layout.StepError as error:
    layout.send_error(str(error))
except OSError as error:
    layout.send_error(f"'{error.filename}': {error.strerror}" if error.filename else str(error))
"""
"""The Python program that the device runs. Its argument is the number of bytes that it reads from standard input. They
contain the sources of modules, which it defines, and the arguments for `main` of the last one, which it calls."""


@dataclass(frozen=True)
class RemoteStep(Generic[ArgumentsT, ReplyT]):
    """A module of `edgeexit.deploy.remote` whose function `main(root, arguments)` runs on the device."""

    module: str
    arguments_type: type[ArgumentsT]
    reply_type: type[ReplyT]
    imports: tuple[str, ...] = ()
    """Other modules of the package that it imports, each after the modules that it imports itself."""
    timeout_s: float = 120.0
    """Maximum time from the end of its input until the end of its output."""

    def encode(self, root: str, arguments: ArgumentsT) -> bytes:
        """Return what the bootstrap program reads: the sources of the modules, the folder and the arguments."""
        names = (*_ALWAYS_SENT, *self.imports, self.module)
        modules = [[f"{_PACKAGE}.{name}", files(_PACKAGE).joinpath(f"{name}.py").read_text()] for name in names]
        return msgspec.json.encode({"modules": modules, "root": root, "arguments": arguments})

    def decode_reply(self, output: bytes) -> ReplyT:
        """Return the reply in a step's output. Raises DeployError if the step failed or there is no valid reply."""
        line = next((line for line in reversed(output.splitlines()) if line.startswith(RESULT_PREFIX)), None)
        if line is None:
            end = shlex.quote(clean_text(output[-_SHOWN_BYTES:].decode(errors="replace")))
            raise DeployError(f"the step '{self.module}' on the device ended without a reply; end of its output: {end}")
        return decode_message(line[len(RESULT_PREFIX) :], self.reply_type, step=self.module)


LOCK: Final = RemoteStep("lock", LockArguments, LockReply)
INVENTORY: Final = RemoteStep("inventory", InventoryArguments, InventoryReply, timeout_s=_HASHING_S)
KEYS: Final = RemoteStep("keys", KeysArguments, KeysReply)
RECEIVE: Final = RemoteStep("receive", ReceiveArguments, ReceiveReply, imports=("inventory",), timeout_s=_HASHING_S)
ENVIRONMENT: Final = RemoteStep(
    "environment", EnvironmentArguments, EnvironmentReply, imports=("inventory",), timeout_s=_OPERATION_S + _INSTALL_S
)
FINISH: Final = RemoteStep("finish", FinishArguments, FinishReply, timeout_s=_OPERATION_S)
ENGINES: Final = RemoteStep(
    "engines", EnginesArguments, EmptyDocument, imports=("inventory", "environment"), timeout_s=_OPERATION_S + _BUILD_S
)
ACTIVATE: Final = RemoteStep("activate", ActivateArguments, EmptyDocument, imports=("service",))
WATCH: Final = RemoteStep("watch", WatchArguments, WatchReply, imports=("service", "activate"))
STATUS: Final = RemoteStep("status", StatusArguments, StatusReply, imports=("service",))


def shell_script(name: str) -> bytes:
    """Return a shell script of `edgeexit.deploy.remote`."""
    return files(_PACKAGE).joinpath(name).read_bytes()
