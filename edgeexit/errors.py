"""The exceptions of the package. Each message names the thing, its value and what to do.

Hierarchy:

* EdgeExitError
  + BundleError
  + CompileError
  + ConfigError
  + DataError
  + DeployError
  + EngineError
  + FittingError
  + InferenceError
    - OverloadedError
  + MessageError
  + PolicyError
  + ProtocolError
  + SignatureError
  + TargetError
"""


class EdgeExitError(Exception):
    """Base of all errors that a user can cause or fix; the CLI prints its message on one line and exits with 2."""


class BundleError(EdgeExitError):
    """A bundle is damaged, is not signed although a signature is required, or cannot be used as requested."""


class CompileError(EdgeExitError):
    """A model cannot be compiled with these options."""


class ConfigError(EdgeExitError):
    """A configuration file or an option is not valid."""


class DataError(EdgeExitError):
    """A data file or an input has the wrong names, shapes, dtypes or lengths."""


class DeployError(EdgeExitError):
    """A device is not reachable, cannot run the bundle, or did not activate a release."""


class EngineError(EdgeExitError):
    """A TensorRT engine cannot be built, or its outputs differ from the bundle's golden outputs."""


class FittingError(EdgeExitError):
    """No policy with the requested properties can be fitted to this data."""


class InferenceError(EdgeExitError):
    """The runtime failed to run a stage on an input."""


class OverloadedError(InferenceError):
    """More samples or requests are pending than the limit allows."""


class MessageError(EdgeExitError):
    """A message, a topic or a name does not follow the wire contract."""


class PolicyError(EdgeExitError):
    """A policy document is not valid, or does not fit the bundle."""


class ProtocolError(EdgeExitError):
    """A request to the agent's endpoint does not follow the Open Inference Protocol."""


class SignatureError(EdgeExitError):
    """A key cannot be read, or a signature is missing or not valid."""


class TargetError(EdgeExitError):
    """A target is unknown, or its file is not valid."""
