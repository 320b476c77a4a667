"""Runs on the device with only the installed wheel: prints the installation and the results of a bundle as JSON.

Arguments: folder of a bundle, file of samples.
"""

import importlib.util
import json
import platform
import sys
from pathlib import Path

import edgeexit.agent
from edgeexit.bundle import Bundle
from edgeexit.datasets import load_arrays
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner

_HEAVY = ("torch", "onnx", "onnx_ir", "onnxscript", "scipy", "sqlalchemy", "sklearn", "plotly", "iotcore")

bundle = Bundle.open(Path(sys.argv[1]))
samples = load_arrays(Path(sys.argv[2]))
golden, exits = bundle.golden(), bundle.manifest.exits
policy = Confidence(temperatures=(1.0,) * len(exits), thresholds=(0.8,) * (len(exits) - 1))
with Runner(bundle) as runner:
    golden_results = runner.infer_every_exit(golden.inputs)
    batch = runner.infer(samples, policy=policy)
    one_by_one = [runner.infer({name: x[k : k + 1] for name, x in samples.items()}, policy=policy) for k in range(8)]
    runtime = runner.runtime
json.dump(
    {
        "machine": platform.machine(),
        "python": sys.prefix,
        "edgeexit": edgeexit.agent.__file__,
        "runtime": runtime,
        "heavy": [name for name in _HEAVY if importlib.util.find_spec(name)],
        "golden": {name: golden_results.outputs[name].tolist() for name in exits},
        "predictions": batch.predictions.tolist(),
        "exits": batch.exits.tolist(),
        "one_by_one": [[int(one.predictions[0]), int(one.exits[0])] for one in one_by_one],
    },
    sys.stdout,
)
