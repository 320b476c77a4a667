"""A model file can be named like what it imports."""

import dataclasses
import sys

import pytest

from edgeexit.compiler.loading.source import load_source
from edgeexit.errors import CompileError

NETWORK = """
import torch
class Network(torch.nn.Module):
    pass
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files below a temporary folder, of which `library` is on the import path; afterwards forget the imports."""
    monkeypatch.syspath_prepend(tmp_path / "library")
    before = set(sys.modules)

    def written(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return lambda source: load_source(f"{tmp_path / source}")

    yield written
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) is None or str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]


def test_a_file_imports_the_library_that_it_is_named_after(write):
    load = write(library__earlynet=NETWORK, mine__earlynet="from earlynet import Network\ndef make(): return Network()")
    name, module = load("mine/earlynet.py:make")
    assert (name, type(module).__module__) == ("earlynet", "earlynet")


def test_a_file_imports_the_package_beside_it_that_has_its_name(write):
    load = write(earlynet__models=NETWORK, earlynet="from earlynet.models import Network as make")
    assert type(load("earlynet.py:make")[1]).__module__ == "earlynet.models"


def test_a_file_may_have_the_name_of_a_standard_module(write):
    sys.modules.pop("colorsys", None)
    load = write(mine__colorsys=f"import colorsys\ncolorsys.rgb_to_hsv{NETWORK}")
    assert load("mine/colorsys.py:Network")[0] == "colorsys"


def test_a_neighbour_can_import_the_file(write):
    load = write(mine__circular=f"A = 1{NETWORK}import other\n", mine__other="from circular import A, Network\n")
    _, module = load("mine/circular.py:Network")
    assert type(module) is sys.modules["other"].Network


def test_the_factory_can_import_neighbours_and_its_classes_are_found(write):
    text = (
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Config:\n"
        "    width: 'int' = 3\n"
        f"{NETWORK}"
        "    config = Config()\n"
        "def make():\n"
        "    from widths import WIDTH\n"
        "    return Network()\n"
    )
    load = write(mine__lazy=text, mine__widths="WIDTH = 3")
    _, module = load("mine/lazy.py:make")
    assert dataclasses.asdict(module.config) == {"width": 3}
    assert sys.modules[type(module).__module__].Network is type(module)


def test_the_import_path_is_as_before(write):
    load = write(mine__network=NETWORK, mine__broken="1 / 0")
    before = list(sys.path), list(sys.meta_path)
    load("mine/network.py:Network")
    with pytest.raises(CompileError, match="ZeroDivisionError"):
        load("mine/broken.py:Network")
    assert (sys.path, sys.meta_path) == before


def test_a_factory_that_returns_weights_is_told_to_load_them(write):
    text = (
        "import torch\ndef state(): return torch.nn.Linear(2, 2).state_dict()\ndef epoch(): return {'model': state()}"
    )
    load = write(weights=text)
    for name in ("state", "epoch"):
        with pytest.raises(
            CompileError, match=r"[dD]ict of weights \(build the network in the function, and call load_st"
        ):
            load(f"weights.py:{name}")
