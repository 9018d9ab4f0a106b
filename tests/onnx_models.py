"""A GGUF as an ONNX model in memory, made in the plainest way, and run by onnxruntime alone."""

import numpy as np
import onnx
import onnxruntime

from rwkv_edge.arch import architecture_of
from rwkv_edge.converters.gguf_file import PlannedTensor
from rwkv_edge.converters.onnx.model import build_model
from rwkv_edge.converters.onnx.stored_weights import initializers_of, split_blocks
from rwkv_edge.model_file import ModelFile

# onnxruntime's, for its log: it warns of any input that has a default.
ERRORS_ALONE = 3


def onnx_of(path):
    """The whole model: the graph, and the weights as the GGUF has them."""
    file = ModelFile(path)
    hp = file.hyperparameters
    unread = file.architecture.unread(hp)
    specs = [spec for spec in file.architecture.tensors(hp) if spec.name not in unread]
    tensors = [PlannedTensor(spec, file.tensor(spec.name).quant_format) for spec in specs]
    model = build_model(hp, tensors)
    for tensor in tensors:
        blocks = np.ascontiguousarray(file.tensor(tensor.spec.name).raw).reshape(-1)
        parts = split_blocks(tensor.quant, blocks)
        for initializer, part in zip(initializers_of(tensor), parts, strict=True):
            assert part.nbytes == initializer.n_bytes
            model.graph.initializer.append(
                onnx.TensorProto(
                    dims=initializer.shape,
                    data_type=initializer.data_type,
                    name=initializer.name,
                    raw_data=part.tobytes(),
                )
            )
    file.close()
    return model


def session_of(model):
    """An onnxruntime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = ERRORS_ALONE
    data = model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


class OnnxModel:
    """A GGUF's model in a session: tokens and a state in, logits and the next state out."""

    def __init__(self, path):
        file = ModelFile(path)
        self.hyperparameters = file.hyperparameters
        file.close()
        self.proto = onnx_of(path)
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
