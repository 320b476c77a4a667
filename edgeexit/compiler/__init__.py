"""From a multi-exit model to a bundle: export, split, readout, proof. The only home of torch and onnx."""
