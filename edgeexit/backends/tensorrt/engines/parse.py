"""Reads stage graphs with TensorRT's own parser, and names the stage and node that the parser refuses."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from edgeexit.backends.tensorrt.interrupt import run_on_thread
from edgeexit.backends.tensorrt.library import Library, installed_libraries
from edgeexit.bundle.manifest import StageSpec
from edgeexit.errors import EngineError
from edgeexit.progress import NO_PROGRESS, Progress

_EMPTY_REASONS: Final = frozenset({"", "false"})
"""Descriptions of a parser error that contain no reason."""


class ParsedStage(NamedTuple):
    """A stage's network, and the objects that must stay alive as long as it is used."""

    network: Any
    builder: Any
    parser: Any


def check_stages(folder: Path, stages: Sequence[StageSpec], *, progress: Progress = NO_PROGRESS) -> str | None:
    """Parse the graph of every stage with TensorRT's parser.

    Returns None, or a warning with the reason if TensorRT does not start on this machine. Raises EngineError that names
    the stage, the node, the operator and TensorRT's reason.
    """

    def check(stop: threading.Event) -> str | None:
        try:
            library = installed_libraries("tensorrt_rtx")[0]  # needs no GPU
            library.new_builder()
        except EngineError as error:
            return f"TensorRT has not checked the stages: {error}"
        for stage in stages:
            if not stop.is_set():
                progress.step(stage.name)
                parse_stage(library, folder / stage.file, stage.name)
        return None

    return run_on_thread(check)


def parse_stage(
    library: Library, file: Path, name: str, *, prepare: Callable[[Any], None] = lambda _: None
) -> ParsedStage:
    """Return the network of the stage `name`, read from its graph `file`.

    `prepare` receives the parser before it reads. Raises EngineError for a node that the parser refuses.
    """
    library.messages.clear()
    builder = library.new_builder()
    network = library.new_network(builder)
    network.name = name
    parser = library.api.OnnxParser(network, library.logger)
    prepare(parser)
    if not parser.parse_from_file(str(file)):  # from the file, so that the parser finds the weights beside it
        raise EngineError(_parser_error(library, parser, name))
    return ParsedStage(network, builder, parser)


def _parser_error(library: Library, parser: Any, name: str) -> str:
    if parser.num_errors == 0:
        return f"{name}: {library.description} cannot read the graph: {library.messages.last_error()}"
    error = parser.get_error(0)
    lines = [line for line in error.desc().splitlines() if not line.startswith(("[", "Invalid Node"))]
    reason = lines[0] if lines and lines[0] not in _EMPTY_REASONS else error.code().name.replace("_", " ").lower()
    if not error.node_operator():
        return f"{name}: {library.description} cannot read the graph: {reason}"
    node = f"node '{error.node_name()}'" if error.node_name() else f"node {error.node()}"
    return f"{name}: {node}: {library.description} does not support this {error.node_operator()}: {reason}"
