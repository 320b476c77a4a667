"""The local endpoint: inference for any client that speaks the Open Inference Protocol. Only `server` needs tornado."""
