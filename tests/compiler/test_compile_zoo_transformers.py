"""Small BERT-like models of `transformers`: torch modules, and ONNX files from both exporters of torch."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeexit.compiler import CompileOptions, compile_bundle
from tests.compiler.full_model import assert_composed, assert_file_composed, module_as_full_model

transformers = pytest.importorskip("transformers", reason="transformers is in the extra 'dev'")

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "max_position_embeddings": 40}
DISTIL = {"vocab_size": 60, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 40}
RNG = np.random.default_rng(4)


class FirstToken(nn.Module):
    """Exits after layers 1 and 2; their heads read the first token."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.heads = nn.ModuleList(nn.Linear(16, 3) for _ in range(2))

    def forward(self, input_ids, attention_mask):
        states = self.body(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        return self.heads[0](states[1][:, 0]), self.heads[1](states[2][:, 0])


class MeanOfTokens(FirstToken):
    """Exits after layers 1 and 2; their heads read the mean of the unmasked tokens. Has token types as an input."""

    def forward(self, input_ids, attention_mask, token_type_ids):
        states = self.body(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            output_hidden_states=True,
        ).hidden_states
        counts = attention_mask.unsqueeze(-1).float()
        return tuple(
            head((states[layer] * counts).sum(1) / counts.sum(1))
            for head, layer in zip(self.heads, (1, 2), strict=True)
        )


def model(kind, attention):
    torch.manual_seed(11)
    if kind == "bert":
        config = transformers.BertConfig(**SIZES, attn_implementation=attention)
        return MeanOfTokens(transformers.BertModel(config, add_pooling_layer=False)).eval()
    if kind == "roberta":
        config = transformers.RobertaConfig(**SIZES, attn_implementation=attention)
        return FirstToken(transformers.RobertaModel(config, add_pooling_layer=False)).eval()
    config = transformers.DistilBertConfig(**DISTIL, attn_implementation=attention)
    return FirstToken(transformers.DistilBertModel(config)).eval()


def tokens(kind, length):
    ids = RNG.integers(2, 60, (5, length))
    mask = np.arange(length) < np.array([[length], [1], [2], [length], [3]])
    samples = {"input_ids": np.where(mask, ids, 1), "attention_mask": mask.astype(np.int64)}  # 1 pads for RoBERTa
    return samples | ({"token_type_ids": RNG.integers(0, 2, (5, length))} if kind == "bert" else {})


def hidden(bundle):
    return [tensor.shape[2] for tensor in bundle.manifest.stages[0].carry_out if len(tensor.shape) == 3]


@pytest.mark.parametrize(("kind", "attention"), [("bert", "sdpa"), ("distilbert", "eager"), ("roberta", "sdpa")])
def test_a_module_with_exits_after_its_layers_is_compiled(tmp_path, kind, attention):
    module = model(kind, attention)
    inputs = [f"{name}:n,length:int64" for name in tokens(kind, 4)]
    bundle = compile_bundle(module, tmp_path / "bundle", CompileOptions(inputs=inputs))
    assert 16 in hidden(bundle)
    for length in (4, 9):
        assert_composed(bundle, module_as_full_model(module), tokens(kind, length))


class Backbone(nn.Module):
    """Exits on the hidden states of any backbone; `axes` are averaged."""

    def __init__(self, body, name, sizes, axes):
        super().__init__()
        self.body = body
        self.name = name
        self.axes = axes
        self.heads = nn.ModuleList(nn.Linear(size, 3) for size in sizes)

    def forward(self, x):
        states = self.body(**{self.name: x}, output_hidden_states=True).hidden_states
        return [head(state.mean(self.axes)) for head, state in zip(self.heads, states[1:], strict=False)]


def backbone(kind):
    torch.manual_seed(12)
    if kind == "t5":  # attention with a computed bias
        config = transformers.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        return Backbone(transformers.T5EncoderModel(config), "input_ids", (16, 16), 1)
    if kind == "swin":  # attention with a learned bias and a mask of windows
        config = transformers.SwinConfig(
            image_size=16, patch_size=2, embed_dim=8, depths=[1, 2], num_heads=[1, 2], window_size=2
        )
        return Backbone(transformers.SwinModel(config), "pixel_values", (16, 16), 1)
    if kind == "convnext":
        config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
        return Backbone(transformers.ConvNextModel(config), "pixel_values", (8, 16), (2, 3))
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=1)  # grouped queries, causal
    return Backbone(transformers.LlamaModel(config), "input_ids", (16, 16), 1)


@pytest.mark.parametrize("kind", ["t5", "swin", "convnext", "llama"])
def test_exits_on_the_hidden_states_of_a_backbone_are_compiled(tmp_path, kind):
    module = backbone(kind).eval()
    is_text = module.name == "input_ids"
    inputs = ["x:n,length:int64"] if is_text else ["x:n,3,16,16"]
    bundle = compile_bundle(module, tmp_path / "bundle", CompileOptions(inputs=inputs))
    assert all(stage.macs > 0 for stage in bundle.manifest.stages)
    if is_text:
        for length in (4, 9):
            assert_composed(bundle, module_as_full_model(module), {"x": RNG.integers(2, 60, (5, length))})
    else:
        images = RNG.standard_normal((5, 3, 16, 16)).astype(np.float32)
        assert_composed(bundle, module_as_full_model(module), {"x": images})


@pytest.mark.filterwarnings("ignore")  # the old exporter emits many warnings
@pytest.mark.parametrize(
    ("kind", "attention", "dynamo", "opset"),
    [
        ("bert", "sdpa", True, 23),
        ("distilbert", "sdpa", True, 18),
        ("bert", "eager", False, 13),
        ("distilbert", "sdpa", False, 17),
        ("roberta", "sdpa", False, 20),
    ],
)
def test_a_file_that_torch_exported_is_compiled(tmp_path, kind, attention, dynamo, opset):
    module, path = model(kind, attention), tmp_path / "model.onnx"
    example = {name: torch.from_numpy(array) for name, array in tokens(kind, 7).items()}
    names = {"input_names": list(example), "output_names": ["shallow", "deep"], "opset_version": opset}
    if dynamo:
        free = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in example}
        torch.onnx.export(module, (), path, kwargs=example, dynamic_shapes=free, dynamo=True, verbose=False, **names)
    else:
        free = {name: {0: "batch", 1: "length"} for name in example} | {"shallow": {0: "batch"}, "deep": {0: "batch"}}
        torch.onnx.export(module, tuple(example.values()), path, dynamic_axes=free, dynamo=False, **names)
    bundle = compile_bundle(path, tmp_path / "bundle")
    assert bundle.manifest.exits == ("shallow", "deep")
    for length in (4, 9):
        assert_file_composed(bundle, path, tokens(kind, length))
