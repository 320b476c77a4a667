"""The steps that run on the device, with the types of their arguments and replies, and how they are sent there."""

import json
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
    LockArguments,
    LockReply,
    ReceiveArguments,
    ReceiveReply,
    StatusArguments,
    StatusReply,
    WatchArguments,
    WatchReply,
)
from edgeexit.errors import DeployError

ArgumentsT = TypeVar("ArgumentsT")
ReplyT = TypeVar("ReplyT")

_PACKAGE: Final = "edgeexit.deploy.remote"
_ALWAYS_SENT: Final = ("documents", "layout")
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

    def encode(self, root: str, arguments: ArgumentsT) -> bytes:
        """Return what the bootstrap program reads: the sources of the modules, the folder and the arguments."""
        names = (*_ALWAYS_SENT, *self.imports, self.module)
        modules = [[f"{_PACKAGE}.{name}", files(_PACKAGE).joinpath(f"{name}.py").read_text()] for name in names]
        return msgspec.json.encode({"modules": modules, "root": root, "arguments": arguments})

    def decode_reply(self, output: bytes) -> ReplyT:
        """Return the reply in a step's output. Raises DeployError if the step failed or there is no valid reply."""
        line = next((line for line in reversed(output.splitlines()) if line.startswith(RESULT_PREFIX)), None)
        if line is None:
            end = shlex.quote(output.decode(errors="replace")[-200:])
            raise DeployError(f"the step '{self.module}' on the device ended without a reply; end of its output: {end}")
        message = json.loads(line[len(RESULT_PREFIX) :])
        if "error" in message:
            raise DeployError(f"the device: {message['error']}")
        try:
            return msgspec.convert(message["reply"], type=self.reply_type)
        except msgspec.ValidationError as error:
            raise DeployError(
                f"the reply of the step '{self.module}' on the device is not valid: {error}; was the release deployed "
                "by another version of edgeexit?"
            ) from error


LOCK: Final = RemoteStep("lock", LockArguments, LockReply)
INVENTORY: Final = RemoteStep("inventory", InventoryArguments, InventoryReply)
RECEIVE: Final = RemoteStep("receive", ReceiveArguments, ReceiveReply, imports=("inventory",))
ENVIRONMENT: Final = RemoteStep("environment", EnvironmentArguments, EnvironmentReply)
FINISH: Final = RemoteStep("finish", FinishArguments, FinishReply)
ENGINES: Final = RemoteStep("engines", EnginesArguments, EmptyDocument, imports=("environment",))
ACTIVATE: Final = RemoteStep("activate", ActivateArguments, EmptyDocument, imports=("service",))
WATCH: Final = RemoteStep("watch", WatchArguments, WatchReply, imports=("service", "activate"))
STATUS: Final = RemoteStep("status", StatusArguments, StatusReply, imports=("service",))


def shell_script(name: str) -> bytes:
    """Return a shell script of `edgeexit.deploy.remote`."""
    return files(_PACKAGE).joinpath(name).read_bytes()
