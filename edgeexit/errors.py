"""The one family of errors: each names the thing, its value and what to do."""


class EdgeExitError(Exception):
    """Base of every error a user can cause or mend; the CLI prints it as one line and exits with 2."""


class BundleError(EdgeExitError):
    """A bundle is damaged, unsigned where a signature is required, or does not fit its use."""


class CompileError(EdgeExitError):
    """A model cannot be compiled as asked."""


class EngineError(EdgeExitError):
    """A TensorRT plan cannot be built as asked, or does not answer as the bundle says."""


class DataError(EdgeExitError):
    """A data file or an input does not have the names, shapes, dtypes or lengths that are needed."""


class PolicyError(EdgeExitError):
    """A policy document is malformed or does not fit the bundle."""


class InferenceError(EdgeExitError):
    """The runtime refused to run a stage on an input."""


class OverloadedError(InferenceError):
    """More samples wait than may."""


class ProtocolError(EdgeExitError):
    """A request to the agent's endpoint does not follow the protocol."""


class FittingError(EdgeExitError):
    """The data cannot give a policy with what was asked of it."""


class MessageError(EdgeExitError):
    """A message, topic or name does not follow the wire contract."""


class SignatureError(EdgeExitError):
    """A key cannot be read, or a signature is missing or wrong."""


class TargetError(EdgeExitError):
    """A target is unknown or its file is wrong."""


class ConfigError(EdgeExitError):
    """A configuration file or option is wrong."""


class DeployError(EdgeExitError):
    """A device cannot be reached, does not fit, or did not take a release."""
