"""The structure of the package: what must hold over all modules."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("edgeexit", "calibration/edgeexit_calibration")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 400


def module_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_a_class_name_means_one_thing_in_the_whole_package():
    found = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(module_name(path))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_states_its_reason_and_stays_readable(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "the first line says why the module exists"
    assert text.count("\n") <= MAX_LINES


def test_only_backends_compare_the_name_of_a_runtime():
    outside = [path for path in MODULES if not path.is_relative_to(ROOT / "edgeexit" / "backends")]
    assert [where for path in outside for where in found_in(path, compares_a_runtime)] == []


def test_no_module_switches_logging_off_for_the_whole_process():
    assert [where for path in MODULES for where in found_in(path, switches_logging_off)] == []


def found_in(path, condition):
    return [f"{module_name(path)}:{node.lineno}" for node in ast.walk(ast.parse(path.read_text())) if condition(node)]


def compares_a_runtime(node):
    if not isinstance(node, ast.Compare):
        return False
    return any(isinstance(part, ast.Attribute) and part.attr == "runtime" for part in (node.left, *node.comparators))


def switches_logging_off(node):
    return isinstance(node, ast.Call) and ast.unparse(node.func) in {"logging.disable", "logging.shutdown"}
