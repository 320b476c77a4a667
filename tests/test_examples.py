"""The commands in the README of each example run."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
NEEDS = {"03_endpoint_client": ("01_bring_a_cnn",), "04_custom_policy": ("01_bring_a_cnn",)}
"""Example -> the examples that its README says to run first."""


def commands(readme: str) -> str:
    return "\n".join(re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Workspace:
    """A copy of the examples, in which each runs at most once."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("*.npz", "*.pt", "bundle", "state", "*.html"))
        self.folder = folder
        self.outputs: dict[str, str] = {}

    def run(self, name: str) -> str:
        """Run the commands of an example's README, and return what they printed."""
        if name in self.outputs:
            return self.outputs[name]
        for needed in NEEDS.get(name, ()):
            self.run(needed)
        folder, port = self.folder / name, str(free_port())
        for file in folder.glob("*.toml"):
            file.write_text(file.read_text().replace("8080", port))
        script = commands((folder / "README.md").read_text()).replace("8080", port)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}:\n{done.stdout}\n{done.stderr}"
        self.outputs[name] = done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("examples") / "examples")


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_an_example_run(workspace, name):
    assert commands((EXAMPLES / name / "README.md").read_text()), "the README shows commands"
    workspace.run(name)


def test_the_client_receives_a_prediction_for_every_sample(workspace):
    printed = workspace.run("03_endpoint_client")
    samples, accuracy = re.search(r"(\d+) samples in .*, ([\d.]+)% correct", printed).groups()
    assert int(samples) == 447
    assert float(accuracy) > 90


def test_the_list_of_examples_is_complete():
    listed = re.findall(r"^\| \[(\w+)\]\(", (EXAMPLES / "README.md").read_text(), flags=re.MULTILINE)
    assert listed == NAMES
