"""Runs on the device, with nothing but the installed wheel: what is there, and what a bundle answers there.

Arguments: folder of a bundle, file of samples. Prints one JSON object.
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
    every = runner.infer_every_exit(golden.inputs)
    whole = runner.infer(samples, policy=policy)
    singly = [runner.infer({name: x[k : k + 1] for name, x in samples.items()}, policy=policy) for k in range(8)]
    runtime = runner.runtime
json.dump(
    {
        "machine": platform.machine(),
        "python": sys.prefix,
        "edgeexit": edgeexit.agent.__file__,
        "runtime": runtime,
        "heavy": [name for name in _HEAVY if importlib.util.find_spec(name)],
        "golden": {name: every.outputs[name].tolist() for name in exits},
        "answers": whole.answers.tolist(),
        "exits": whole.exits.tolist(),
        "singly": [[int(one.answers[0]), int(one.exits[0])] for one in singly],
    },
    sys.stdout,
)
