"""Manifests for tests: a test chooses the number of stages and the tensors that each stage reads."""

from edgeexit.bundle.manifest import Manifest, Proof, StageSpec, TensorSpec
from edgeexit.latency import LatencyProfile, LatencySummary, StageProfile

IMAGE = TensorSpec(name="image", dtype="float32", shape=("batch", 3, 8, 8))


def make_manifest(reads, *, inputs=(IMAGE,), carried=(), model="net", keep_fp32=()):
    """Return a manifest whose stage k reads the tensors named in `reads[k]` and produces the carries `carried[k]`."""
    names = {tensor.name for tensor in inputs}
    stages = tuple(
        StageSpec(
            name=f"stage{k}",
            file=f"stage{k}.onnx",
            exit=TensorSpec(name=f"exit{k}", dtype="float32", shape=("batch", 10)),
            inputs=tuple(name for name in wanted if name in names),
            carry_in=tuple(name for name in wanted if name not in names),
            carry_out=tuple(carried[k]) if k < len(carried) else (),
            macs=1000 * (k + 1),
        )
        for k, wanted in enumerate(reads)
    )
    return Manifest(
        model=model,
        task="classification",
        target="x86-cpu",
        precision="fp32",
        opset=20,
        inputs=tuple(inputs),
        classes=10,
        stages=stages,
        proof=Proof(
            samples=1,
            source="random",
            runtime="none",
            absolute_tolerance=0,
            relative_tolerance=0,
            max_absolute_error={stage.exit.name: 0.0 for stage in stages},
        ),
        tool_versions={},
        files={},
        keep_fp32=keep_fp32,
    )


def make_dense(stages):
    """Return a manifest in which every stage produces three tensors and reads those of all earlier stages."""
    carried = [
        [TensorSpec(name=f"made{k}.{part}", dtype="float32", shape=("batch", 256)) for part in range(3)]
        for k in range(stages - 1)
    ]
    reads = [["image"], *([tensor.name for made in carried[:k] for tensor in made] for k in range(1, stages))]
    return make_manifest(reads, carried=carried)


def make_profile(manifest, *, exit_rates=None):
    """Return a profile in which stage k takes k + 1 ms."""
    return LatencyProfile(
        bundle="0" * 64,
        machine="aarch64 Cortex-A76",
        runtime="onnxruntime 1.23.2",
        threads=4,
        batch=1,
        cold_load_ms=1,
        first_run_ms=1,
        stages=tuple(
            StageProfile(
                name=stage.name,
                latency=LatencySummary(samples=100, mean_ms=k + 1.0, p50_ms=k + 0.5, p90_ms=None, p99_ms=None),
            )
            for k, stage in enumerate(manifest.stages)
        ),
        exit_rates=exit_rates,
    )
