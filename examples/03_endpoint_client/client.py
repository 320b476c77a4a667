"""Stream samples to a local agent, one per request, and send the label of each sample back afterwards."""

import argparse
import json
import time
from collections import Counter
from http.client import HTTPConnection

import numpy as np


def call(connection: HTTPConnection, method: str, path: str, body: dict | None = None) -> tuple[int, dict]:
    """Return the status and the JSON body of a response; the connection stays open for the next call."""
    connection.request(method, path, None if body is None else json.dumps(body))
    response = connection.getresponse()
    content = response.read()
    return response.status, json.loads(content) if content else {}


def wait_until_ready(connection: HTTPConnection, timeout_s: float) -> None:
    """The agent checks its stages on golden samples before it listens."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if call(connection, "GET", "/v2/health/ready")[0] == 200:
                return
        except ConnectionError:
            connection.close()
        if time.monotonic() > deadline:
            raise SystemExit(f"no agent is ready on {connection.host}:{connection.port} after {timeout_s} s")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--samples", default="../01_bring_a_cnn/test.npz")
    options = parser.parse_args()
    samples = np.load(options.samples)
    connection = HTTPConnection("127.0.0.1", options.port, timeout=10)
    wait_until_ready(connection, timeout_s=30)
    _, index = call(connection, "POST", "/v2/repository/index", {})
    model = index[0]["name"]

    exits, correct, labels_used = Counter(), 0, 0
    started = time.perf_counter()
    for number, (image, label) in enumerate(zip(samples["image"], samples["labels"], strict=True)):
        tensor = {"name": "image", "datatype": "FP32", "shape": [1, *image.shape], "data": image.ravel().tolist()}
        request = {"id": str(number), "inputs": [tensor], "outputs": [{"name": "predictions"}, {"name": "exits"}]}
        status, response = call(connection, "POST", f"/v2/models/{model}/infer", request)
        if status != 200:
            raise SystemExit(f"the agent refused sample {number}: {response['error']}")
        outputs = {output["name"]: output["data"][0] for output in response["outputs"]}
        exits[outputs["exits"]] += 1
        correct += outputs["predictions"] == label
        # 200: the sample was chosen for an audit, and the label travels with it. 404: it was not chosen.
        status, _ = call(connection, "POST", "/edgeexit/v1/feedback", {"id": str(number), "label": int(label)})
        labels_used += status == 200
    elapsed = time.perf_counter() - started

    count = len(samples["labels"])
    print(
        f"{count} samples in {elapsed:.1f} s, {100 * correct / count:.1f}% correct; {labels_used} labels go with audits"
    )
    for exit_index, number in sorted(exits.items()):
        print(f"exit {exit_index}: {100 * number / count:.1f}%")


if __name__ == "__main__":
    main()
