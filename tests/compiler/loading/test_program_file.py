"""Loading a .pt2 file runs no code of the file, unless the user trusts it."""

import io
import json
import os
import pickle
import re
import zipfile

import pytest
import torch
from torch.export import Dim
from torch.export.pt2_archive._package import package_pt2

from edgeexit.compiler.loading.program_file import load_program
from edgeexit.errors import CompileError
from tests.compiler.programs import CreatesFile, export_two_exits, rewrite

INPUTS = "data/sample_inputs/model.pt"
PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.export.save(export_two_exits(2 * Dim("half", min=1, max=50)), path)
    return path


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def edited(edit):
    """Return the change of a JSON file by a function that changes the document."""

    def change(content):
        document = json.loads(content)
        edit(document)
        return json.dumps(document).encode()

    return change


def pickled_weight(weights):
    next(iter(weights["config"].values())).update(use_pickle=True, path_name="evil")


def pickled_constant(constants):
    constants["config"]["evil"] = {
        "path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None
    }  # fmt: skip


def attacks(created):
    """Return name -> (changed files, added files) of archives that create a file."""
    evil = CreatesFile(created)
    code = f"open({str(created)!r},chr(119))"
    return {
        "inputs": ({INPUTS: lambda _: saved(((evil,), {}))}, {}),
        "weight": ({WEIGHTS: edited(pickled_weight)}, {"data/weights/evil": saved(evil)}),
        "old weights": ({}, {"data/weights/model.pt": saved({"w": evil})}),
        "old constants": ({}, {"data/constants/model.pt": saved({"c": evil})}),
        "constant": ({CONSTANTS: edited(pickled_constant)}, {"data/constants/opaque_obj_0": pickle.dumps(evil)}),
        "size": (
            {PROGRAM: lambda content: re.sub(rb'"expr_str": "[^"]*"', f'"expr_str": "{code}"'.encode(), content)},
            {},
        ),
        "name": ({PROGRAM: lambda content: content.replace(b'"name": "x"', f'"name": "x={code}"'.encode())}, {}),
        "symbol": (
            {PROGRAM: edited(lambda p: p["range_constraints"].update({code: {"min_val": 1, "max_val": 2}}))},
            {},
        ),
        "operator": (
            {
                PROGRAM: edited(
                    lambda p: p["graph_module"]["graph"]["nodes"][0].update(target="torch.ops.aten.save.default")
                )
            },
            {},
        ),
        "compiled code": ({}, {"data/aotinductor/model/model.so": b"ELF"}),
    }


@pytest.mark.parametrize("attack", attacks("unused"))
def test_an_archive_that_runs_code_is_refused(archive, tmp_path, attack):
    created = tmp_path / "created"
    rewrite(archive, tmp_path / "model.pt2", *attacks(created)[attack])
    with pytest.raises(CompileError, match=r"model\.pt2' contains .*run any code on this machine; .*--trust-pickle"):
        load_program(tmp_path / "model.pt2")
    assert not created.exists()


def test_a_trusted_archive_is_unpickled(archive, tmp_path):
    created = tmp_path / "created"
    rewrite(archive, tmp_path / "model.pt2", *attacks(created)["inputs"])
    load_program(tmp_path / "model.pt2", trust_pickle=True)
    assert created.exists()


def test_the_guards_in_an_archive_are_not_run(archive, tmp_path):
    code = f"open({str(tmp_path / 'created')!r}, 'w')"
    change = {PROGRAM: edited(lambda program: program.update(guards_code=[code]))}
    rewrite(archive, tmp_path / "model.pt2", change)
    load_program(tmp_path / "model.pt2").module()(torch.ones(4, 4))
    assert not (tmp_path / "created").exists()


def test_a_file_in_the_format_of_torch_2_7_is_checked_too(archive, tmp_path):
    created = tmp_path / "created"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(tmp_path / "old.pt2", "w") as old:
        program = json.loads(source.read(f"model/{PROGRAM}"))
        old.writestr("version", ".".join(map(str, program["schema_version"].values())))
        old.writestr("serialized_exported_program.json", json.dumps(program))
        old.writestr("serialized_state_dict.pt", saved({}))
        old.writestr("serialized_constants.pt", saved({}))
        old.writestr("serialized_example_inputs.pt", saved(((CreatesFile(created),), {})))
    with pytest.raises(CompileError, match=r"old\.pt2' contains a pickle that uses '.*--trust-pickle"):
        load_program(tmp_path / "old.pt2")
    assert not created.exists()


def test_an_ordinary_archive_loads_and_the_environment_is_as_before(archive, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    before = dict(os.environ)
    program = load_program(archive)
    assert dict(os.environ) == before
    assert set(program.module()(torch.ones(4, 4))) == {"exits", "loss", "version"}


def test_an_archive_without_the_program_of_torch_export_save_is_rejected(archive, tmp_path):
    package_pt2(str(tmp_path / "named.pt2"), exported_programs={"net": torch.export.load(archive)})
    with pytest.raises(CompileError, match="contains no program 'model', but net"):
        load_program(tmp_path / "named.pt2")
    with zipfile.ZipFile(tmp_path / "compiled.pt2", "w") as compiled:
        compiled.writestr("compiled/data/aotinductor/model/model.so", b"ELF")
    with pytest.raises(CompileError, match="compiled code of AOTInductor, not a program"):
        load_program(tmp_path / "compiled.pt2")
