"""The ONNX model of a checkpoint: everything but its weights and what is said about it."""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from rwkv_edge.converters.gguf_file import PlannedTensor
from rwkv_edge.converters.onnx.graph import CONTRIB, domains
from rwkv_edge.converters.onnx.layers import LOGITS_FROM, ModelGraph
from rwkv_edge.converters.onnx.rwkv7 import Rwkv7Graph
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.version import __version__

PRODUCER = "rwkv-edge"
# The first that has all operators used; onnxruntime reads both since 1.20.
OPSET = 21
IR_VERSION = 10
# By domain.
OPSETS = {"": OPSET, CONTRIB: 1}

# By the version of RWKV.
GRAPHS: dict[str, type[ModelGraph]] = {
    "7": Rwkv7Graph,
}


def build_model(hyperparameters: Hyperparameters, tensors: Sequence[PlannedTensor]) -> ModelProto:
    """Nodes, inputs, outputs and small constants.

    tensors: every one of the schema; those of `initializers_of` are left for who writes the file,
    and to the nodes they are there already.
    """
    named = {tensor.spec.name: tensor for tensor in tensors}
    graph = GRAPHS[hyperparameters.version](hyperparameters, named).build()
    proto = graph.proto(f"rwkv{hyperparameters.version}")
    proto.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), LOGITS_FROM))
    opsets = [helper.make_opsetid(domain, OPSETS[domain]) for domain in sorted(domains(proto))]
    return helper.make_model(
        proto,
        opset_imports=opsets,
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
        producer_version=__version__,
    )
