"""The local HTTP endpoint: the Open Inference Protocol for clients on the device."""
