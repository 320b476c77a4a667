"""A runtime class for MLServer that runs one stage of a bundle; it is imported by MLServer's own Python only."""

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class StageModel(MLModel):
    """Returns the logits of a stage; the file is `parameters.uri`, its inputs and output are in `parameters.extra`."""

    async def load(self) -> bool:
        """Open the stage with the session options of the target `x86-cpu`."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        parameters = self.settings.parameters
        self._session = ort.InferenceSession(parameters.uri, options, providers=["CPUExecutionProvider"])
        self._output = parameters.extra["output"]
        self._temperature = {parameters.extra["temperature"]: np.ones(1, dtype=np.float32)}
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run one request."""
        tensors = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        (logits,) = self._session.run([self._output], tensors | self._temperature)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("outputs", logits)])
