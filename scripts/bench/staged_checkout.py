"""Runs `Runner.infer` of another checkout of this repository in a second process, for `staged.py --checkout`."""

import functools
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

CALLS: Final = ("without early exits", "under a policy")


class OtherCheckout:
    """The second process. It waits while this process measures, and the reverse.

    Args:
        folder: the checkout. Its own `staged_models.py` makes the network, which is the same in both processes.
        samples: number of images.
        seed: seed of the images.

    """

    def __init__(self, folder: Path, samples: int, seed: int) -> None:
        command = [sys.executable, __file__, str(folder.resolve()), str(samples), str(seed)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603

    def seconds(self, call: str) -> list[float]:
        """Run one of `CALLS` on every image, after one more that is not measured; return the durations."""
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101
        print(call, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the process of the other checkout has ended; its error is above")
        seconds: list[float] = json.loads(line)
        return seconds

    def __enter__(self) -> "OtherCheckout":
        """Return the process itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self._process.__exit__(kind, error, traceback)


def _serve(folder: Path, samples: int, seed: int) -> None:
    """Read the name of a call from standard input, run it on every image and print the durations; repeat."""
    sys.path[:0] = [str(folder), str(folder / "scripts" / "bench")]
    import torch  # noqa: PLC0415
    from staged_models import EXITS, IMAGE, make_images, make_models, make_runner, mixed_policy  # noqa: PLC0415
    from turns import seconds_each  # noqa: PLC0415

    from edgeexit.policies.confidence import Confidence  # noqa: PLC0415

    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # the exporter may print
    with tempfile.TemporaryDirectory() as home, make_runner(make_models(Path(home))) as runner:
        images = make_images(samples, seed)
        never = Confidence(temperatures=(1.0,) * len(EXITS), thresholds=(None,) * (len(EXITS) - 1))
        policies = dict(zip(CALLS, (never, mixed_policy(runner, images)), strict=True))
        gc.collect()
        gc.freeze()
        for line in sys.stdin:
            policy = policies[line.strip()]
            calls = [functools.partial(runner.infer, {IMAGE: image}, policy=policy) for image in images[:, None]]
            calls[-1]()
            print(json.dumps(seconds_each(calls)), file=answers, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Run the second process."""
    folder, samples, seed = arguments
    _serve(Path(folder), int(samples), int(seed))


if __name__ == "__main__":
    main(sys.argv[1:])
