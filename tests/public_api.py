"""Describe the public API as text. `python -m tests.public_api` writes it to tests/public_api.txt."""

from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parent.parent
FROZEN = Path(__file__).parent / "public_api.txt"
MODULES = (
    "edgeexit.agent",
    "edgeexit.backends.base",
    "edgeexit.backends.registry",
    "edgeexit.backends.tensorrt.engines",
    "edgeexit.backends.traits",
    "edgeexit.bundle",
    "edgeexit.compiler",
    "edgeexit.deploy",
    "edgeexit.errors",
    "edgeexit.fitting",
    "edgeexit.policies",
    "edgeexit.policies.beem",
    "edgeexit.policies.cats",
    "edgeexit.policies.confidence",
    "edgeexit.policies.eenet",
    "edgeexit.policies.entropy",
    "edgeexit.policies.margin",
    "edgeexit.policies.patience",
    "edgeexit.policies.pcee",
    "edgeexit.policies.readout",
    "edgeexit.policies.voting",
    "edgeexit.policies.ztw",
    "edgeexit.runtime",
    "edgeexit.telemetry",
    "edgeexit.wire",
    "edgeexit_calibration",
)


def describe() -> str:
    """Return every public name of the modules, with its signature or its fields, one per line.

    The source is read and not imported, so the text is the same on every version of Python.
    """
    loader = griffe.GriffeLoader(search_paths=[ROOT, ROOT / "calibration"])
    for package in ("edgeexit", "edgeexit_calibration"):
        loader.load(package, try_relative_path=False)
    loader.resolve_aliases(external=False)
    lines = []
    for name in MODULES:
        module = loader.modules_collection[name]
        lines += ["", name]
        for exported in sorted(module.exports or _defined(module)):
            member = module[exported]
            if member.is_module and exported in module.imports:  # a function with the name of a module
                member = loader.modules_collection[module.imports[exported]]
            lines += _described(member.final_target if member.is_alias else member)
    return "\n".join(lines[1:]) + "\n"


def _defined(module: griffe.Module) -> list[str]:
    """Return the public names that a module without `__all__` defines."""
    return [name for name, member in module.members.items() if not name.startswith("_") and not member.is_alias]


def _described(member: griffe.Object) -> Iterator[str]:
    if isinstance(member, griffe.Function):
        yield f"  def {member.signature(return_type=True)}"
    elif isinstance(member, griffe.Class):
        bases = ", ".join(map(str, member.bases))
        yield f"  class {member.name}({bases})" if bases else f"  class {member.name}"
        for name, inner in member.members.items():
            if name.startswith("_") and not (name.startswith("__") and name != "__post_init__"):
                continue
            if isinstance(inner, griffe.Function):
                yield f"    def {inner.signature(return_type=True)}"
            elif isinstance(inner, griffe.Attribute) and not (
                inner.labels == {"instance-attribute"} and not inner.annotation
            ):
                yield f"    {_field(inner)}"
    elif isinstance(member, griffe.Attribute):
        yield f"  {_field(member)}"
    else:
        yield f"  {member.kind.value} {member.name}"


def _field(attribute: griffe.Attribute) -> str:
    text = attribute.name
    if attribute.annotation is not None:
        text += f": {attribute.annotation}"
    if attribute.value is not None:
        text += f" = {attribute.value}"
    return text


if __name__ == "__main__":
    FROZEN.write_text(describe())
