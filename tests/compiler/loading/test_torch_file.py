"""The contents of a file that torch wrote decide how it is loaded."""

import io
import pickle
import zipfile

import pytest
import torch
from torch import nn

from edgeexit.compiler.loading.source import load_source
from edgeexit.compiler.loading.torch_file import load_torch_file
from edgeexit.errors import CompileError
from tests.compiler.programs import CreatesFile


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "model.pt"
    torch.jit.script(nn.Linear(2, 2)).save(str(path))
    return path


def test_a_torchscript_file_is_loaded_whatever_its_suffix(script, tmp_path):
    for name in ("model.torchscript", "model.pt2"):
        (tmp_path / name).write_bytes(script.read_bytes())
        loaded_name, module = load_source(tmp_path / name)
        assert loaded_name == "model"
        assert module.original_name == "Linear"


def test_a_torchscript_file_runs_no_pickled_code(script, tmp_path):
    """TorchScript has its own reader of pickles, which knows tensors and the classes in the file only."""
    path, created = tmp_path / "evil.pt", tmp_path / "created"
    with zipfile.ZipFile(script) as source, zipfile.ZipFile(path, "w") as archive:
        for name in source.namelist():
            evil = name.endswith(("data.pkl", "constants.pkl"))
            archive.writestr(name, pickle.dumps(CreatesFile(created), protocol=2) if evil else source.read(name))
    with pytest.raises(CompileError, match=r"evil\.pt' is not a readable TorchScript file"):
        load_torch_file(path)
    assert not created.exists()


class Saves(nn.Module):
    """Writes a file when it is loaded, in TorchScript."""

    def __init__(self, path):
        super().__init__()
        self.path: str = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.ones(1), state[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_torchscript_that_writes_files_is_refused_unless_it_is_trusted(tmp_path):
    created = tmp_path / "created"
    torch.jit.script(Saves(str(created))).save(str(tmp_path / "saves.pt"))
    with pytest.raises(CompileError, match=r"saves\.pt' contains code that calls 'torch\.save'.*--trust-pickle"):
        load_torch_file(tmp_path / "saves.pt")
    assert not created.exists()
    load_torch_file(tmp_path / "saves.pt", trust_pickle=True)
    assert created.exists()


@pytest.mark.parametrize(
    ("name", "zipped"),
    [
        ("weights.pth", True),
        ("weights.pth", False),
        ("weights.pt", True),
        ("weights.pt2", True),
        ("weights.ckpt", False),
        ("weights.safetensors", False),
    ],
)
def test_a_checkpoint_is_refused_and_not_unpickled(tmp_path, name, zipped):
    created = tmp_path / "created"
    buffer = io.BytesIO()
    torch.save({"weights": CreatesFile(created)}, buffer, _use_new_zipfile_serialization=zipped)
    (tmp_path / name).write_bytes(buffer.getvalue())
    with pytest.raises(CompileError, match=f"{name}' is neither a program.* write a function that builds the network"):
        load_torch_file(tmp_path / name)
    assert not created.exists()
