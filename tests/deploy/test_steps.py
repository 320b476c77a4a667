"""Steps are sent to the device with the modules that they import, and their replies are checked."""

import inspect
import json
import subprocess
import sys
from importlib import import_module

import pytest

from edgeexit.deploy import steps
from edgeexit.deploy.remote.documents import InventoryArguments, StatusArguments
from edgeexit.errors import DeployError

ALL_STEPS = [step for step in vars(steps).values() if isinstance(step, steps.RemoteStep)]


def run_bootstrap(program):
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", steps.BOOTSTRAP, str(len(program))],
        input=program, capture_output=True, check=True,
    )  # fmt: skip
    return b"a message of the login shell without a line break" + result.stdout


def result_line(message):
    return steps.RESULT_PREFIX + json.dumps(message).encode() + b"\n"


def test_every_module_of_the_remote_side_runs_without_any_package_installed(tmp_path):
    inventory = steps.INVENTORY.encode(
        str(tmp_path), InventoryArguments(files=[], folders=[str(tmp_path / "new"), str(tmp_path)])
    )
    reply = steps.INVENTORY.decode_reply(run_bootstrap(inventory))
    spaces = reply.pop("spaces")
    assert reply == {"current": None, "current_healthy": False, "environments": [], "files": {}}
    assert spaces[str(tmp_path / "new")] == spaces[str(tmp_path)]
    assert spaces[str(tmp_path)]["file_system"] == tmp_path.stat().st_dev
    status = steps.STATUS.encode(str(tmp_path), StatusArguments(log_lines=1))
    assert steps.STATUS.decode_reply(run_bootstrap(status))["releases"] == []


@pytest.mark.parametrize("step", ALL_STEPS, ids=lambda step: step.module)
def test_a_step_is_sent_with_all_modules_that_it_imports(step, tmp_path):
    program = json.loads(step.encode(str(tmp_path), {}))
    names = [name for name, _ in program["modules"]]
    for name, source in program["modules"]:
        for line in source.splitlines():
            if line.startswith("from edgeexit"):
                imported = line.split()[1]
                assert imported in names[: names.index(name)]


@pytest.mark.parametrize("step", ALL_STEPS, ids=lambda step: step.module)
def test_the_types_of_a_step_are_those_of_its_function(step):
    main = import_module(f"edgeexit.deploy.remote.{step.module}").main
    arguments = inspect.signature(main).parameters["arguments"].annotation
    reply = inspect.signature(main).return_annotation
    assert arguments is step.arguments_type
    assert reply is step.reply_type or (step is steps.LOCK and reply is None)  # `lock` replies before it ends


def test_an_error_of_the_device_is_a_deploy_error():
    with pytest.raises(DeployError, match=r"^the device: the disk is full$"):
        steps.FINISH.decode_reply(result_line({"error": "the disk is full"}))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"bash: python3: not found\n", "ended without a reply.*not found"),
        (result_line({"reply": {"identifier": "0001-d"}}), "is not valid.*`id`"),
        (result_line({"reply": {"id": 1}}), "is not valid.*Expected `str`"),
    ],
)
def test_a_reply_that_is_missing_or_has_other_fields_is_an_error(output, expected):
    with pytest.raises(DeployError, match=expected):
        steps.FINISH.decode_reply(output)
