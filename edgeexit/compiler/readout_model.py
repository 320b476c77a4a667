"""Runs the readout nodes of a bundle's stages alone, on recorded logits: under any temperature, to the bit."""

from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from edgeexit.backends.onnxruntime.backend import session_options
from edgeexit.backends.onnxruntime.sessions import StageSession
from edgeexit.bundle import Bundle
from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT, StageSpec
from edgeexit.compiler.extract import extract, values_read_by
from edgeexit.compiler.graph import all_values
from edgeexit.policies.readout import Array, ExitReadout
from edgeexit.targets import Target, load_target


class StageReadouts:
    """The readout nodes of every stage of a classifier, in sessions of ONNX Runtime on the CPU.

    The sessions have the options of the bundle's target. Stages on another runtime or execution provider can differ by
    rounding errors. An instance can be pickled; sessions are opened when they are needed.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Extract the nodes from the stage files."""
        stages = bundle.manifest.stages
        self._exits = tuple(stage.exit.name for stage in stages)
        self._models = tuple(readout_model(bundle.read(stage.file), stage) for stage in stages)
        self._target: Target = load_target(bundle.manifest.target)

    def __call__(self, exit_index: int, logits: Array, temperature: float) -> ExitReadout:
        """Return the readout of the stage for `logits` [n, C] float32."""
        name = self._exits[exit_index]
        feeds = {name: logits, TEMPERATURE_INPUT: np.array([temperature], dtype=np.float32)}
        outputs = [f"{name}{READOUT_SUFFIX}", f"{name}{PROBABILITIES_SUFFIX}"]
        readout, probabilities = self._sessions[exit_index].run(outputs, feeds)
        return ExitReadout(readout, probabilities)

    @cached_property
    def _sessions(self) -> tuple[ort.InferenceSession, ...]:
        return tuple(
            StageSession(model, session_options(self._target), "CPUExecutionProvider") for model in self._models
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the sessions, which cannot be pickled."""
        return {name: value for name, value in self.__dict__.items() if name != "_sessions"}


def readout_model(stage_file: bytes, stage: StageSpec) -> bytes:
    """Return an ONNX model of the nodes between the logits of a stage's exit, its readout and its probabilities."""
    model = ir.from_proto(onnx.load_model_from_string(stage_file))
    values = {value.name: value for value in all_values(model.graph)}
    logits, temperature = values[stage.exit.name], values[TEMPERATURE_INPUT]
    outputs = [values[f"{stage.exit.name}{suffix}"] for suffix in (READOUT_SUFFIX, PROBABILITIES_SUFFIX)]
    needed: set[ir.Node] = set()
    pending: list[ir.Value] = list(outputs)
    while pending:
        value = pending.pop()
        node = None if value in (logits, temperature) else value.producer()
        if node is not None and node not in needed:
            needed.add(node)
            pending.extend(values_read_by(node))
    nodes = [node for node in model.graph if node in needed]
    alone = extract(model, nodes, inputs=[logits, temperature], outputs=outputs, name=f"{stage.name}_readout")
    return bytes(ir.to_proto(alone).SerializeToString())
