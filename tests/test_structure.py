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
    offenders = []
    for path in MODULES:
        if path.is_relative_to(ROOT / "edgeexit" / "backends"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                operands = [node.left, *node.comparators]
                if any(isinstance(operand, ast.Attribute) and operand.attr == "runtime" for operand in operands):
                    offenders.append(f"{module_name(path)}:{node.lineno}")
    assert offenders == []


def test_no_module_switches_logging_or_warnings_off_for_the_whole_process():
    offenders = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"logging.disable", "logging.shutdown"}:
                offenders.append(f"{module_name(path)}:{node.lineno}")
    assert offenders == []
