"""A batch of the dummy backend: numpy arrays by name."""

import numpy as np

from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX, TEMPERATURE_INPUT


class DummyBatch:
    """Implements the protocol `StagedBatch`."""

    def __init__(self, manifest, evaluators, inputs, *, probabilities):
        self._manifest = manifest
        self._evaluators = tuple(evaluators)
        self._tensors = {name: array.copy() for name, array in inputs.items()}
        self._probabilities = probabilities
        self._stage = -1

    def run(self, temperature):
        self._stage += 1
        stage, evaluator = self._manifest.stages[self._stage], self._evaluators[self._stage]
        feeds = {name: self._tensors[name] for name in (*stage.inputs, *stage.carry_in)}
        feeds[TEMPERATURE_INPUT] = np.array([temperature], dtype=np.float32)
        self._tensors |= dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))
        results = [self._tensors[stage.exit.name + READOUT_SUFFIX]]
        if self._probabilities:
            results.append(self._tensors[stage.exit.name + PROBABILITIES_SUFFIX])
        return np.concatenate(results, axis=1).astype(np.float32)

    def outputs(self):
        return self._tensors[self._manifest.stages[self._stage].exit.name]

    def companions(self):
        companions = self._manifest.stages[self._stage].companions
        return {name: self._tensors[spec.name] for name, spec in companions.items()}

    def select_rows(self, rows):
        for spec in self._manifest.live_after(self._stage):
            self._tensors[spec.name] = self._tensors[spec.name][rows]

    def join(self, other):
        for spec in self._manifest.live_after(self._stage):
            self._tensors[spec.name] = np.concatenate([self._tensors[spec.name], other._tensors[spec.name]])
        other.__exit__()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._tensors = {}
