"""A BERT-like classifier with two inputs, ids and mask, and two classes, under all kinds of policies."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.datasets import Dataset
from edgeexit.policies import exit_rates, exits_of, simulate
from edgeexit.policies.readout import TOP1
from edgeexit.runtime import Runner, evaluate
from tests.runtime.policies_of_every_kind import policies_on

SAMPLES, EXITS, LENGTH, WIDTH, VOCABULARY = 60, 4, 10, 16, 50


class Layer(nn.Module):
    """Masked self-attention with two heads and a feed-forward part, each followed by LayerNorm as in BERT."""

    def __init__(self):
        super().__init__()
        self.projection, self.joined = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.forward_part = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))

    def forward(self, x, mask):
        parts = self.projection(x).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in parts)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        x = self.norms[0](x + self.joined(seen.transpose(1, 2).flatten(2)))
        return self.norms[1](x + self.forward_part(x))


class Classifier(nn.Module):
    """A classifier with an exit after every layer, on the first token."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embedding, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(EXITS))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 2) for _ in range(EXITS))

    def forward(self, input_ids, attention_mask):
        x, mask = self.embedding(input_ids) + self.positions, attention_mask.bool()
        predictions = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = layer(x, mask)
            predictions.append(head(x[:, 0]))
        return tuple(predictions)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(4)
    mask = np.arange(LENGTH) < rng.integers(1, LENGTH + 1, SAMPLES)[:, None]
    return {"input_ids": rng.integers(1, VOCABULARY, (SAMPLES, LENGTH)) * mask, "attention_mask": mask.astype(np.int64)}


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    inputs = [f"{name}:batch,{LENGTH}:int64" for name in ("input_ids", "attention_mask")]
    with Runner(
        compile_bundle(Classifier(), tmp_path_factory.mktemp("text") / "bundle", CompileOptions(inputs=inputs))
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
def readouts(runner, texts):
    return runner.infer_every_exit(texts, probabilities=True).readouts


def test_the_evaluation_of_every_kind_equals_its_simulation_on_the_recording(runner, texts, readouts):
    policies = policies_on(readouts)
    labels = np.random.default_rng(5).integers(0, 2, SAMPLES)
    found = evaluate(runner, Dataset(inputs=texts, labels=labels), policies)
    final = readouts[:, -1, TOP1]
    assert found["full model"].accuracy.value == pytest.approx(np.mean(final == labels))
    for kind, policy in policies.items():
        scores, predictions = simulate(policy, readouts)
        exits = exits_of(scores, policy.thresholds)
        given = predictions[np.arange(SAMPLES), exits]
        assert len(set(exits)) > 1, kind
        assert [rate.value for rate in found[kind].exit_rates] == pytest.approx(exit_rates(exits, EXITS)), kind
        assert found[kind].agreement.value == pytest.approx(np.mean(given == final)), kind
        assert found[kind].accuracy.value == pytest.approx(np.mean(given == labels)), kind
        assert found[kind].layer_speedup.value == pytest.approx(EXITS * SAMPLES / (exits + 1).sum()), kind


def test_predictions_do_not_depend_on_the_batch(runner, texts, readouts):
    for kind, policy in policies_on(readouts).items():
        together = runner.infer(texts, policy=policy)
        alone = [runner.infer({name: ids[n : n + 1] for name, ids in texts.items()}, policy=policy) for n in range(12)]
        assert [int(one.exits[0]) for one in alone] == together.exits[:12].tolist(), kind
        assert [int(one.predictions[0]) for one in alone] == together.predictions[:12].tolist(), kind
