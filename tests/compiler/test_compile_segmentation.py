"""In segmentation, exits are maps of logits, and readouts are averages over the pixels."""

import json
import shutil
import sys

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from edgeexit.bundle.manifest import PROBABILITIES_SUFFIX, READOUT_SUFFIX
from edgeexit.cli.main import main
from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.datasets import IGNORED, Dataset, as_dataset
from edgeexit.errors import CompileError, DataError
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner, evaluate
from tests.compiler.staged_run import run_stages
from tests.recorded_progress import RecordedProgress

CLASSES = 3


class Segmenter(nn.Module):
    """A small U-Net: the early exit reads the upsampled bottom map, the final exit also the skip connection."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.down = nn.Conv2d(1, 4, 3, padding=1)
        self.bottom = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.Conv2d(8, 4, 3, padding=1)
        self.heads = nn.ModuleList(nn.Conv2d(4, CLASSES, 1) for _ in range(2))

    def forward(self, image):
        wide = torch.relu(self.down(image))
        small = torch.relu(self.bottom(nn.functional.max_pool2d(wide, 2)))
        back = nn.functional.interpolate(small, scale_factor=2.0, mode="nearest")
        final = torch.relu(self.up(torch.cat([back, wide], dim=1)))
        return self.heads[0](back), self.heads[1](final)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(7).standard_normal((10, 1, 8, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory, images):
    return compile_bundle(
        Segmenter(), tmp_path_factory.mktemp("made") / "segmenter", CompileOptions(example={"image": images})
    )


def test_exits_are_maps_equal_to_those_of_torch(segmenter, images):
    assert segmenter.manifest.task == "segmentation"
    assert [stage.exit.shape for stage in segmenter.manifest.stages] == [("batch", CLASSES, 8, 12)] * 2
    outputs = run_stages(segmenter, {"image": images})
    with torch.no_grad():
        expected = Segmenter()(torch.from_numpy(images))
    for name, logits in zip(segmenter.manifest.exits, expected, strict=True):
        np.testing.assert_allclose(outputs[name], logits.numpy(), atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_readouts_are_averages_over_the_pixels(segmenter, images, temperature):
    outputs = run_stages(segmenter, {"image": images}, temperature)
    for name in segmenter.manifest.exits:
        scaled = outputs[name].astype(np.float64) / temperature
        exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        pixels = exponents / exponents.sum(axis=1, keepdims=True)
        ranked = np.sort(pixels, axis=1)[:, ::-1]
        classes = pixels.mean(axis=(2, 3))
        entropy = -(pixels * np.log(pixels)).sum(axis=1).mean(axis=(1, 2))
        columns = [classes.argmax(axis=1), ranked[:, 0].mean(axis=(1, 2)), ranked[:, 1].mean(axis=(1, 2)), entropy]
        np.testing.assert_allclose(outputs[name + READOUT_SUFFIX], np.stack(columns, axis=1), atol=1e-5)
        np.testing.assert_allclose(outputs[name + PROBABILITIES_SUFFIX], classes, atol=1e-6)


def test_every_sample_gets_the_map_of_the_exit_where_it_exits(segmenter, images):
    with Runner(segmenter) as runner:
        every = runner.infer_every_exit({"image": images})
        middle = float(np.median(every.readouts[:, 0, 1]))
        result = runner.infer({"image": images}, policy=Confidence(temperatures=(1.0, 1.0), thresholds=(middle,)))
    assert set(result.exits) == {0, 1}
    maps = np.stack([every.outputs[name] for name in segmenter.manifest.exits], axis=1)
    np.testing.assert_allclose(result.outputs, maps[np.arange(len(images)), result.exits], atol=1e-5)


def test_the_height_may_be_symbolic(tmp_path):
    bundle = compile_bundle(Segmenter(), tmp_path / "bundle", CompileOptions(inputs=["image:batch,1,height,12"]))
    stage = bundle.manifest.stages[-1]
    assert stage.exit.shape[:2] == ("batch", CLASSES)
    assert isinstance(stage.exit.shape[2], str)
    outputs = run_stages(bundle, {"image": np.ones((2, 1, 6, 12), dtype=np.float32)})
    assert outputs[stage.exit.name].shape == (2, CLASSES, 6, 12)


@pytest.mark.parametrize(
    ("task", "function", "words"),
    [
        (
            "segmentation",
            lambda x: (x.mean((2, 3)), x.sum((2, 3))),
            r"'exit0' is 1x2 .*for segmentation.*height, width\]",
        ),
        ("classification", lambda x: (x + 1, x * 2), r"'exit0' is 1x2x4x4 .*for classification.*classes\]"),
        (None, lambda x: (x[:, :, ::2, ::2], x * 2), r"'exit0' 2x2, 'exit1' 4x4; resize them in the model"),
        (None, lambda x: (x.mean((2, 3)), x * 2), r"'exit0' 2x2 float32, 'exit1' 2x2x4x4 float32; select the exits"),
        (None, lambda x: (x[:, :, 4:], torch.sin(x).exp()[:, :, 4:]), r"'exit0' is 1x2x0x4 for a batch of 1"),
        (None, lambda x: (torch.softmax(x, dim=1), x * 2), "'exit0' returns probabilities"),
    ],
    ids=["rows", "maps", "sizes", "mixed", "empty", "softmaxed"],
)
def test_exits_that_do_not_match_the_task_are_rejected(tmp_path, task, function, words):
    class Model(nn.Module):
        def forward(self, image):
            return function(torch.relu(image) + image)

    with pytest.raises(CompileError, match=words):
        compile_bundle(Model(), tmp_path / "bundle", CompileOptions(inputs=["image:batch,2,4,4"], task=task))
    assert not any(tmp_path.iterdir())


def test_evaluation_counts_pixels_and_leaves_out_ignored_ones(segmenter, images):
    with Runner(segmenter) as runner:
        maps = [logits.argmax(axis=1) for logits in runner.infer_every_exit({"image": images}).outputs.values()]
        labels = maps[0].copy()
        labels[:, :4] = IGNORED
        labels[:5, 4:] = CLASSES - 1
        early = Confidence(temperatures=(1.0, 1.0), thresholds=(0.0,))
        found = evaluate(runner, Dataset(inputs={"image": images}, labels=labels), {"early": early})["early"]
    assert found.agreement.value == pytest.approx(np.mean(maps[0] == maps[1]))
    assert found.accuracy.value == pytest.approx(np.mean(maps[0][:, 4:] == labels[:, 4:]))


def test_labels_of_maps_are_checked(segmenter, images):
    specs = segmenter.manifest.inputs
    for labels, words in (
        (np.zeros(10, np.int64), r"shape \(10,\); 10 samples need labels of shape \[N, height, width\]"),
        (np.full((10, 8, 12), CLASSES), "label 3 is outside the model's classes, 0 to 2"),
    ):
        with pytest.raises(DataError, match=words):
            as_dataset({"image": images, "labels": labels}, specs, task="segmentation", classes=CLASSES, where="it")


def test_maps_are_fitted_and_evaluated(segmenter, images, tmp_path, monkeypatch, capsys):
    bundle = tmp_path / "segmenter"
    shutil.copytree(segmenter.path, bundle)
    np.savez(tmp_path / "maps.npz", image=images, labels=np.zeros((10, 8, 12), dtype=np.uint8))
    rest = ["--data", str(tmp_path / "maps.npz"), "--json"]
    for arguments in (["fit", str(bundle), "--policy", "ztw", "--speedup", "1.05"], ["evaluate", str(bundle)]):
        monkeypatch.setattr(sys, "argv", ["edgeexit", *arguments, *rest])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
    results = json.loads(capsys.readouterr().out.partition("\n}\n")[2])
    assert results["ztw"]["layer_speedup"]["value"] > 1
    with Runner(segmenter) as runner:
        final = runner.infer_every_exit({"image": images}).outputs[segmenter.manifest.exits[-1]].argmax(axis=1)
    assert results["full model"]["accuracy"]["value"] == pytest.approx(np.mean(final == 0))


def test_commands_that_need_no_labels_accept_maps_as_labels(segmenter, images, tmp_path, monkeypatch, capsys):
    """`run` ignores the labels; `evaluate` without a policy is an error that names the command `fit`."""
    data = tmp_path / "maps.npz"
    np.savez(data, image=images, labels=np.zeros((10, 8, 12), dtype=np.uint8))
    for arguments, code, words in (
        (["run", "--data", data, "--every-exit", "--out", tmp_path / "out.npz"], 0, "10 samples"),
        (["evaluate", "--data", data], 2, "run `edgeexit fit"),
    ):
        command, *rest = map(str, arguments)
        monkeypatch.setattr(sys, "argv", ["edgeexit", command, str(segmenter.path), *rest])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert (stopped.value.code or 0) == code
        assert words in "".join(capsys.readouterr())


def test_labels_of_another_size_are_rejected(images, tmp_path):
    data = {"image": images, "labels": np.zeros((10, 4, 6), dtype=np.int64)}
    with pytest.raises(DataError, match="'labels' are maps of 4x6, but the exits' maps are 8x12; resize the labels"):
        compile_bundle(Segmenter(), tmp_path / "bundle", CompileOptions(calibration=data, precision="fp16"))


def test_ignored_labels_and_unread_arrays_of_the_samples_are_reported(images, tmp_path):
    labels = np.zeros((10, 8, 12), dtype=np.uint8)
    labels[:, :4] = 255
    progress = RecordedProgress()
    options = CompileOptions(
        example={"image": images, "y": np.zeros(10)},
        calibration={"image": images, "labels": labels, "fold": np.zeros(10)},
        precision="fp16",
    )
    compile_bundle(Segmenter(), tmp_path / "bundle", options, progress=progress)
    for warning in (
        "--example samples: 'y' is not read; the model's inputs are 'image'",
        "calibration data: 'fold' is not read; the model's inputs are 'image'",
        "calibration data: ignored label 255: 480 of 960 pixels (50 %) do not count in the accuracy",
    ):
        assert progress.warnings.count(warning) == 1, progress.warnings
    with pytest.raises(DataError, match=r"label 255 is outside .* in 480 of 960 pixels; .* add --ignore-label 255"):
        compile_bundle(Segmenter(), tmp_path / "all", msgspec.structs.replace(options, ignore_labels=()))
