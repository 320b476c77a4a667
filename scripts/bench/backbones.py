"""Compiles transformers backbones with an exit on every layer's hidden state, and prints one row per backbone.

    python scripts/bench/backbones.py [--only NAME] [--json]

Needs `pip install transformers`. The sizes are small and the weights random, and nothing is downloaded: the rows show
that these networks split, not how fast or accurate they are. Columns: exits; seconds to compile; KiB that a sample
keeps after each stage but the last; fraction of the MACs that the first exit needs; largest difference of an exit
between the stages and the full model, and between the stages and torch.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import nn

from edgeexit.compiler import CompileOptions, compile_bundle
from edgeexit.runtime import Runner

_CLASSES = 10
_SAMPLES = 8
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
_TEXT = _SIZES | {"vocab_size": 1000, "max_position_embeddings": 128}
_STAGES: dict[str, Any] = {"depths": [1, 1, 1, 1]}


class Exits(nn.Module):
    """A head on the mean of each hidden state, [B, T, C] or [B, C, H, W]."""

    def __init__(self, body: nn.Module, name: str, example: torch.Tensor) -> None:
        super().__init__()
        self.body, self.name = body.eval(), name
        with torch.no_grad():
            widths = [state.shape[1] for state in self._means(example)]
        self.heads = nn.ModuleList(nn.Linear(width, _CLASSES) for width in widths)

    def _means(self, x: torch.Tensor) -> list[torch.Tensor]:
        states = self.body(**{self.name: x}, output_hidden_states=True).hidden_states
        states = states[1:] if len(states) > len(_STAGES["depths"]) else states  # the first is of the embeddings
        return [state.mean((2, 3)) if state.ndim == x.ndim == 4 else state.mean(1) for state in states]  # noqa: PLR2004 - images

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits of every exit, [B, 10]."""
        return [head(mean) for head, mean in zip(self.heads, self._means(x), strict=True)]


def _swin() -> nn.Module:
    return hf.SwinModel(
        hf.SwinConfig(
            image_size=64, patch_size=2, embed_dim=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=4
        )
    )


def _segformer() -> nn.Module:
    return hf.SegformerModel(
        hf.SegformerConfig(hidden_sizes=[16, 32, 48, 64], num_attention_heads=[1, 2, 3, 4], **_STAGES)
    )


def _wav2vec2() -> nn.Module:
    return hf.Wav2Vec2Model(
        hf.Wav2Vec2Config(**_SIZES, vocab_size=32, conv_dim=(32, 32, 32), conv_stride=(5, 4, 4), conv_kernel=(10, 4, 4))
    )


def _t5() -> nn.Module:
    return hf.T5EncoderModel(hf.T5Config(vocab_size=1000, d_model=64, d_kv=16, d_ff=128, num_layers=4, num_heads=4))


_IMAGE = "x:batch,3,64,64"
_TOKENS = "x:batch,16:int64"
_BACKBONES: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "Swin": (_swin, "pixel_values", _IMAGE),
    "ViT": (lambda: hf.ViTModel(hf.ViTConfig(**_SIZES, image_size=64, patch_size=8)), "pixel_values", _IMAGE),
    "ConvNeXt": (
        lambda: hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[16, 32, 48, 64], **_STAGES)),
        "pixel_values",
        _IMAGE,
    ),
    "SegFormer": (_segformer, "pixel_values", _IMAGE),
    "wav2vec 2.0": (_wav2vec2, "input_values", "x:batch,4000"),
    "BERT": (lambda: hf.BertModel(hf.BertConfig(**_TEXT)), "input_ids", _TOKENS),
    "ALBERT": (lambda: hf.AlbertModel(hf.AlbertConfig(**_TEXT, embedding_size=32)), "input_ids", _TOKENS),
    "DeBERTa v2": (
        lambda: hf.DebertaV2Model(
            hf.DebertaV2Config(**_TEXT, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=32)
        ),
        "input_ids",
        _TOKENS,
    ),
    "T5 encoder": (_t5, "input_ids", _TOKENS),
    "Llama": (lambda: hf.LlamaModel(hf.LlamaConfig(**_TEXT, num_key_value_heads=2)), "input_ids", _TOKENS),
    "Qwen2": (lambda: hf.Qwen2Model(hf.Qwen2Config(**_TEXT, num_key_value_heads=2)), "input_ids", _TOKENS),
}
"""Name -> function that builds the network, name of its input, input of the compiler."""


def _samples(spec: str) -> np.ndarray[Any, Any]:
    sizes, *dtype = spec.partition(":")[2].split(":")
    shape = [_SAMPLES, *map(int, sizes.split(",")[1:])]
    rng = np.random.default_rng(1)
    return rng.integers(0, 1000, shape) if dtype else rng.standard_normal(shape).astype(np.float32)


def measure(name: str, folder: Path) -> dict[str, float | list[float]]:
    """Compile one backbone and run its stages; return its row."""
    build, argument, spec = _BACKBONES[name]
    torch.manual_seed(0)
    samples = _samples(spec)
    module = Exits(build(), argument, torch.from_numpy(samples)).eval()
    start = time.perf_counter()
    bundle = compile_bundle(module, folder / "bundle", CompileOptions(inputs=(spec,)), replace=True)
    seconds = time.perf_counter() - start
    with Runner(bundle) as runner:
        found = runner.infer_every_exit({"x": samples}).outputs.values()
    with torch.no_grad():
        expected = [logits.numpy() for logits in module(torch.from_numpy(samples))]
    manifest = bundle.manifest
    macs = [stage.macs for stage in manifest.stages]
    kept = [manifest.live_after(stage) for stage in range(len(macs) - 1)]
    return {
        "exits": len(macs),
        "seconds": seconds,
        "kept": [sum(tensor.bytes_per_sample or 0 for tensor in live) / 1024 for live in kept],
        "first": macs[0] / sum(macs),
        "full": max(manifest.proof.max_absolute_error.values()),
        "torch": max(float(np.abs(one - other).max()) for one, other in zip(found, expected, strict=True)),
    }


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", choices=_BACKBONES, action="append", help="a backbone; repeatable")
    arguments.add_argument("--json", action="store_true", help="print the rows as JSON")
    options = arguments.parse_args()
    if not options.json:
        print(f"{'':<12} exits    s   kept KiB                 first exit  full model    torch")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or _BACKBONES:
            row: dict[str, Any] = measure(name, Path(folder))
            rows[name] = row
            if not options.json:
                kept = ", ".join(f"{size:.0f}" for size in row["kept"])
                print(
                    f"{name:<12}{row['exits']:>6}{row['seconds']:>5.0f}   {kept:<24}{row['first']:>11.0%}"
                    f"{row['full']:>12.1g}{row['torch']:>9.0e}",
                    flush=True,
                )
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
