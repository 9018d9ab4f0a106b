"""A GGUF as an ONNX model with the same numbers, run by onnxruntime alone."""

import numpy as np
import onnx
import onnxruntime

from rwkv_edge.arch import architecture_of
from rwkv_edge.converters.onnx.export import convert_to_onnx

# onnxruntime's, for its log: it warns of any input that has a default.
ERRORS_ALONE = 3


def session_of(model):
    """An onnxruntime session on the CPU. model: the protobuf message."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = ERRORS_ALONE
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


class OnnxModel:
    """A GGUF's model in a session: tokens and a state in, logits and the next state out.

    It is exported beside the GGUF.
    """

    def __init__(self, path):
        exported = path.with_suffix(".onnx")
        self.hyperparameters = convert_to_onnx(path, exported, None).hyperparameters
        self.proto = onnx.load(exported)
        self.session = session_of(self.proto)

    def new_state(self):
        """Nothing seen."""
        architecture = architecture_of(self.hyperparameters.version)
        return {
            name: np.full(shape, architecture.state_initial_value(name), np.float32)
            for name, shape in architecture.state_shapes(self.hyperparameters).items()
        }

    def forward(self, tokens, state=None, logits_from=0):
        """(n, n_vocab) logits and the new state; logits_from None: what the graph takes itself."""
        state = state or self.new_state()
        feed = {"tokens": np.asarray(tokens, np.int64), **state}
        if logits_from is not None:
            feed["logits_from"] = np.array([logits_from])
        names = [output.name for output in self.session.get_outputs()]
        found = dict(zip(names, self.session.run(None, feed), strict=True))
        return found["logits"], {name: found[f"new_{name}"] for name in state}

    def token_by_token(self, tokens):
        """The same, a call for each token."""
        rows, state = [], self.new_state()
        for token in tokens:
            logits, state = self.forward([token], state, -1)
            rows.append(logits[0])
        return np.stack(rows), state
