"""Traces a torch module with torch.export, and with other exporters where that fails and a trace is safe."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edgeexit.bundle.manifest import TensorSpec
from edgeexit.compiler.library_output import silence_libraries
from edgeexit.compiler.options import Exporter
from edgeexit.compiler.samples import Arrays, repeat_to
from edgeexit.compiler.sessions import ReferenceSession
from edgeexit.compiler.torch_module.exit_module import ExitModule, run_module, tensors_of
from edgeexit.compiler.tracing.data_dependence import check_data_dependence
from edgeexit.compiler.tracing.guard_errors import GuardErrorObserver
from edgeexit.compiler.tracing.torch_export import EXPORT_BATCH, export_module, to_onnx
from edgeexit.compiler.tracing.torchscript_export import export_torchscript
from edgeexit.compiler.tracing.trace_errors import UnsafeForwardError
from edgeexit.datasets import Inputs
from edgeexit.errors import CompileError
from edgeexit.progress import NO_PROGRESS, Progress

_BATCHES: Final = (1, 2, 3)
_MAX_SAMPLES: Final = 32
_TOLERANCE: Final = 1e-3
"""Absolute and relative: torch uses other kernels than ONNX Runtime."""
_HALF_TOLERANCE: Final = 5e-3
"""Fraction of the largest value, for modules with 16-bit weights."""


def trace(
    module: ExitModule,
    specs: Sequence[TensorSpec],
    samples: Inputs,
    *,
    opset: int,
    exporter: Exporter = "auto",
    progress: Progress = NO_PROGRESS,
) -> ir.Model:
    """Convert a module to ONNX; the outputs of the graph are those of the module, in its order.

    torch.export proves which sizes its graph is for. A graph of another exporter is compared with the module here, for
    several sizes; a warning names the exporter that was used. If all exporters fail, the first error is raised.

    Args:
        module: the module.
        specs: its inputs.
        samples: input name -> [N, ...].
        opset: newest operator set that the target supports.
        exporter: the exporter to use.
        progress: receives the warning.

    Raises CompileError if the module cannot be traced, or if a trace would be wrong for other data.

    """
    tracer = _Tracer(module, specs, samples, opset)
    if exporter != "auto":
        return {"export": tracer.export, "strict": tracer.strict, "torchscript": tracer.torchscript}[exporter]()
    if isinstance(module.model, torch.jit.ScriptModule):
        return tracer.torchscript()
    try:
        return tracer.export()
    except UnsafeForwardError:
        raise
    except CompileError as error:
        return _fall_back(tracer, error, progress)


def _fall_back(tracer: "_Tracer", first: CompileError, progress: Progress) -> ir.Model:
    """Try the exporters after the first. Raises the first error if all fail."""
    reason = str(first).partition("; ")[0]  # without the advice
    if not tracer.is_traced:  # else the operators are the problem, which strict mode does not change
        try:
            model = tracer.strict()
        except UnsafeForwardError:
            raise
        except CompileError:
            pass
        else:
            progress.warning(
                f"{reason}; torch.export in strict mode traced it: what forward does besides computing its exits is "
                "not part of the model"
            )
            return model
    try:
        model = tracer.torchscript()
    except UnsafeForwardError:
        raise
    except CompileError as error:
        raise first from error
    sizes = ", ".join(map(str, tracer.batches))
    reason = reason.replace(
        "on its data", "on a tensor"
    )  # which does not depend on the inputs, or TorchScript had failed
    progress.warning(
        f"{reason}; TorchScript traced it, and its exits are those of the module for batches of {sizes}: a trace has "
        "one path through forward, so branches on sizes or attributes, and numbers that Python computes, are fixed"
    )
    return model


class _Tracer:
    """A module, its inputs, and what the exporters need to convert it."""

    def __init__(self, module: ExitModule, specs: Sequence[TensorSpec], samples: Inputs, opset: int) -> None:
        self._module = module
        self._specs = specs
        self._samples = samples
        self._opset = opset
        self.is_traced = False
        """torch.export has traced the module."""
        count = min(len(next(iter(samples.values()))), _MAX_SAMPLES)
        self.batches = sorted({*_BATCHES, count})

    def export(self) -> ir.Model:
        """Trace with torch.export in non-strict mode."""
        with GuardErrorObserver() as observer:
            program = export_module(self._module, self._specs, self._samples)
        if observer.has_error:  # forward has caught it, so the trace may lack a path
            self._check_data_dependence()
        self.is_traced = True
        return to_onnx(program, opset=self._opset)

    def strict(self) -> ir.Model:
        """Trace with torch.export in strict mode."""
        program = export_module(self._module, self._specs, self._samples, strict=True)
        self.is_traced = True
        model = to_onnx(program, opset=self._opset)
        self._prove(model)
        return model

    def torchscript(self) -> ir.Model:
        """Trace with TorchScript, unless the trace would be wrong for other data."""
        if not isinstance(self._module.model, torch.jit.ScriptModule):
            self._check_data_dependence()
        model = export_torchscript(self._module, self._specs, self._samples, opset=self._opset)
        self._prove(model)
        return model

    def _check_data_dependence(self) -> None:
        check_data_dependence(self._module, tensors_of(self._module, repeat_to(self._samples, EXPORT_BATCH)))

    def _prove(self, model: ir.Model) -> None:
        """Raise CompileError if the graph and the module differ for a batch size or a smaller symbolic dimension."""
        outputs = [str(value.name) for value in model.graph.outputs]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            with silence_libraries():
                ir.save(model, path, external_data="weights.bin")
            session = ReferenceSession(path, what="the exported graph")
        names = dict(zip((str(value.name) for value in model.graph.inputs), self._specs, strict=True))
        for feeds, needed in self._feeds():
            try:
                expected = run_module(self._module, feeds)
            except CompileError:
                if needed:
                    raise
                continue  # the module does not take this size
            found = session.run({name: feeds[spec.name] for name, spec in names.items()}, outputs)
            for name, array in zip(self._module.outputs, found, strict=True):
                if not self._is_close(array, expected[name]):
                    shape = "x".join(map(str, next(iter(feeds.values())).shape))
                    raise CompileError(
                        f"the exported graph differs from the torch model at exit '{name}' for an input of {shape}"
                    )

    def _feeds(self) -> list[tuple[Arrays, bool]]:
        """Return samples of several sizes; True for those that the module must accept."""
        feeds = [(repeat_to(self._samples, count), True) for count in self.batches]
        few = repeat_to(self._samples, _BATCHES[-1])
        for dimension in dict.fromkeys(size for spec in self._specs for size in spec.shape[1:]):
            if not isinstance(dimension, str):
                continue
            sizes = {
                few[spec.name].shape[axis]
                for spec in self._specs
                for axis, size in enumerate(spec.shape)
                if size == dimension and axis
            }
            smaller = sorted({min(sizes) - 1, (min(sizes) + 1) // 2} - {0, min(sizes)})
            feeds.extend((_shortened(few, self._specs, dimension, size), False) for size in smaller)
        return feeds

    def _is_close(self, found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
        if len(found) == 1 and expected.shape == found.shape[1:]:  # forward squeezes a batch of 1
            expected = expected[None]
        if found.shape != expected.shape:
            return False
        found, expected = found.astype(np.float64), expected.astype(np.float64)
        absolute = _TOLERANCE
        if any(parameter.dtype in {torch.float16, torch.bfloat16} for parameter in self._module.parameters()):
            absolute = max(absolute, _HALF_TOLERANCE * float(np.abs(expected).max(initial=0)))
        return np.allclose(found, expected, rtol=_TOLERANCE, atol=absolute, equal_nan=True)


def _shortened(samples: Arrays, specs: Sequence[TensorSpec], dimension: str, size: int) -> Arrays:
    """Return the first `size` elements along each axis that has the symbolic dimension."""
    return {
        spec.name: samples[spec.name][
            tuple(slice(size if axis and each == dimension else None) for axis, each in enumerate(spec.shape))
        ]
        for spec in specs
    }
