"""Chooses the companion outputs of a model: outputs that are delivered beside the logits of each exit."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from edgeexit.compiler.exits.names import MIN_EXITS, listed, match_names
from edgeexit.compiler.graph import unique_name
from edgeexit.errors import CompileError

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


class Companion(NamedTuple):
    """An output of the model that is delivered beside the logits of one exit."""

    name: str
    """Name under which the output is delivered at every exit."""
    exit: str
    output: str
    """Name of the model's output. Several exits may share one output."""
    tensor: str
    """Name of the graph's output, which no other companion has."""

    @property
    def label(self) -> str:
        """The companion at this exit, as the subject of error messages."""
        return f"companion '{self.name}': output '{self.output}'"


Companions = tuple[Companion, ...]
"""The companions of all exits, in the order of the exits."""


def parse_companions(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parse values NAME=OUTPUT,OUTPUT,... of the command line option `--companion`. Raises CompileError."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, _, outputs = text.partition("=")
        patterns = tuple(output.strip() for output in outputs.split(","))
        if not name or not all(patterns):
            raise CompileError(
                f"--companion '{text}' is not NAME=OUTPUT,OUTPUT,... with one output per exit, for example "
                "boxes=boxes0,boxes1,boxes2 or 'boxes=boxes*'"
            )
        if name in found:
            raise CompileError(f"--companion '{name}' is given twice; list the outputs of all exits in one option")
        found[name] = patterns
    return found


def check_companion_names(requested: Iterable[str]) -> None:
    """Raise CompileError for the name of a companion that is not a plain name."""
    for name in requested:
        if _NAME.fullmatch(name) is None:
            raise CompileError(
                f"companion '{name}': a name has at most 64 letters, digits, '_', '-' and '.', and does not begin with "
                "'.' or '-'"
            )


def choose_companions(
    requested: Mapping[str, Sequence[str]], outputs: Sequence[str], *, exits: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return companion name -> names of its outputs, and the outputs that may be exits.

    Args:
        requested: companion name -> names or patterns (`*`, `?`, `[...]`) of its outputs, in the order of the exits. A
            pattern selects all matching outputs, in the model's order.
        outputs: names of the model's outputs.
        exits: names or patterns of the exits. An output that is named here may be an exit although it is a companion,
            for which `assign_companions` then reports an error.

    Raises CompileError for an unknown output, for a pattern without a match, and if too few exits are left because
    companions have the outputs that `exits` selects.

    """
    matched = {
        name: tuple(
            output
            for pattern in patterns
            for output in match_names([pattern], outputs, what=f"output of companion '{name}':")
        )
        for name, patterns in requested.items()
    }
    used = {output for found in matched.values() for output in found}
    others = tuple(name for name in outputs if name not in used or name in exits)
    selected = [name for name in outputs if any(fnmatchcase(name, pattern) for pattern in exits)]
    taken = [name for name in selected if name not in others]
    if taken and len(selected) - len(taken) < MIN_EXITS:
        raise CompileError(
            f"--exits and --companion both select {listed([repr(name) for name in taken])}; an output is either an "
            "exit or a companion"
        )
    return matched, others


def assign_companions(matched: Mapping[str, Sequence[str]], exits: Sequence[str]) -> Companions:
    """Return the companions of the exits; the outputs of each companion are in the order of the exits.

    Raises CompileError for a companion whose number of outputs is not the number of exits, for an output that is an
    exit, and if too few outputs are left to be exits.
    """
    if matched and len(exits) < MIN_EXITS:
        left = listed([repr(name) for name in exits]) or "none"
        raise CompileError(f"the outputs that are no companions are the exits, but they are too few: {left}")
    for name, outputs in matched.items():
        if len(outputs) != len(exits):
            found, needed = (listed([repr(each) for each in names]) for names in (outputs, exits))
            raise CompileError(
                f"companion '{name}' has {len(outputs)} outputs ({found}) for {len(exits)} exits ({needed}); give one "
                "output per exit, in the order of the exits"
            )
        for output in outputs:
            if output in exits:
                raise CompileError(
                    f"companion '{name}': output '{output}' is an exit; its logits are delivered without a companion"
                )
    taken = {*exits, *(output for outputs in matched.values() for output in outputs)}
    used: set[str] = set()
    companions = []
    for index, exit_name in enumerate(exits):
        for name, outputs in matched.items():
            output = outputs[index]
            tensor = unique_name(output, taken) if output in used else output
            used.add(output)
            companions.append(Companion(name, exit_name, output, tensor))
    return tuple(companions)


def output_tensors(exits: Sequence[str], companions: Companions) -> tuple[str, ...]:
    """Return the names of the graph's outputs: the exits, then the tensors of the companions."""
    return (*exits, *(companion.tensor for companion in companions))


def tensors_by_exit(companions: Companions) -> dict[str, tuple[str, ...]]:
    """Return exit name -> names of the graph's outputs that are its companions."""
    found: dict[str, tuple[str, ...]] = {}
    for companion in companions:
        found[companion.exit] = (*found.get(companion.exit, ()), companion.tensor)
    return found
