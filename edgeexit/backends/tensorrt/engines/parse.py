"""Reads stage graphs with TensorRT's own parser, and says which node of which stage it does not take."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgeexit.backends.tensorrt.interrupt import run_apart
from edgeexit.backends.tensorrt.library import Library, installed_libraries
from edgeexit.bundle.manifest import StageSpec
from edgeexit.errors import EngineError

_TELLS_NOTHING: Final = frozenset({"", "false"})


class ParsedStage(NamedTuple):
    """A stage's network and what has to outlive it."""

    network: Any
    builder: Any
    parser: Any


def check_stages(
    folder: Path, stages: Sequence[StageSpec], *, on_stage: Callable[[str], None] = lambda _: None
) -> str | None:
    """Let TensorRT's parser read every stage in `folder`; None, or a line that says why that was not done.

    Raises EngineError that names the stage, the node, the operator and what TensorRT says of it.
    """

    def check(stop: threading.Event) -> str | None:
        try:
            library = installed_libraries("tensorrt_rtx")[0]  # which needs no GPU
            library.new_builder()
        except EngineError as error:
            return f"TensorRT has not seen the stages: {error}"
        for stage in stages:
            if not stop.is_set():
                on_stage(stage.name)
                parse_stage(library, folder / stage.file, stage.name)
        return None

    return run_apart(check)


def parse_stage(
    library: Library, file: Path, name: str, *, prepare: Callable[[Any], None] = lambda _: None
) -> ParsedStage:
    """Return a stage's network; `prepare` sees the parser first. Raises EngineError for a node that it refuses."""
    library.journal.clear()
    builder = library.new_builder()
    network = library.new_network(builder)
    network.name = name
    parser = library.api.OnnxParser(network, library.log)
    prepare(parser)
    if not parser.parse_from_file(str(file)):  # from the file, so that weights are found beside it
        raise EngineError(_complaint(library, parser, name))
    return ParsedStage(network, builder, parser)


def _complaint(library: Library, parser: Any, name: str) -> str:
    if parser.num_errors == 0:
        return f"{name}: {library.description} does not read the graph: {library.journal.why()}"
    error = parser.get_error(0)
    said = [line for line in error.desc().splitlines() if not line.startswith(("[", "Invalid Node"))]
    reason = said[0] if said and said[0] not in _TELLS_NOTHING else error.code().name.replace("_", " ").lower()
    if not error.node_operator():
        return f"{name}: {library.description} does not read the graph: {reason}"
    node = f"node '{error.node_name()}'" if error.node_name() else f"node {error.node()}"
    return f"{name}: {node}: {library.description} does not take this {error.node_operator()}: {reason}"
