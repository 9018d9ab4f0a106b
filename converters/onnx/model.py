"""The ONNX model of a checkpoint: everything but its weights and what is said about it."""

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from rwkv_edge.converters.gguf_file import PlannedTensor
from rwkv_edge.converters.onnx.graph import CONTRIB, domains
from rwkv_edge.converters.onnx.layers import ModelGraph
from rwkv_edge.converters.onnx.rwkv4 import Rwkv4Graph
from rwkv_edge.converters.onnx.rwkv5 import Rwkv5Graph
from rwkv_edge.converters.onnx.rwkv6 import Rwkv6Graph
from rwkv_edge.converters.onnx.rwkv7 import Rwkv7Graph
from rwkv_edge.converters.onnx.rwkv7a import Rwkv7aGraph
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.onnx_model_file import LOGITS_FROM
from rwkv_edge.version import __version__

PRODUCER = "rwkv-edge"
# The first that has all operators used; onnxruntime reads both since 1.20.
OPSET = 21
IR_VERSION = 10
# By domain.
OPSETS = {"": OPSET, CONTRIB: 1}

# What `logits_from` is where a caller does not say.
LAST_TOKEN = -1

# By the version of RWKV. Explicit, because a frozen desktop build misses imports made from strings.
GRAPHS: dict[str, type[ModelGraph]] = {
    "4": Rwkv4Graph,
    "5.0": Rwkv5Graph,
    "5.1": Rwkv5Graph,
    "5.2": Rwkv5Graph,
    "6": Rwkv6Graph,
    "7": Rwkv7Graph,
    "7a": Rwkv7aGraph,
}


def build_model(hyperparameters: Hyperparameters, tensors: Sequence[PlannedTensor]) -> ModelProto:
    """Nodes, inputs, outputs and small constants.

    tensors: every one of the schema; those of `initializers_of` are left for who writes the file,
    and to the nodes they are there already.
    """
    named = {tensor.spec.name: tensor for tensor in tensors}
    graph = GRAPHS[hyperparameters.version](hyperparameters, named).build()
    proto = graph.proto(f"rwkv{hyperparameters.version}")
    # A default rather than an input that must be given: onnxruntime in a browser knows no input
    # that has one, and then gives what is wanted there, the logits to choose the next token by.
    default = np.array([LAST_TOKEN], np.int64)
    proto.initializer.append(numpy_helper.from_array(default, LOGITS_FROM))
    opsets = [helper.make_opsetid(domain, OPSETS[domain]) for domain in sorted(domains(proto))]
    return helper.make_model(
        proto,
        opset_imports=opsets,
        ir_version=IR_VERSION,
        producer_name=PRODUCER,
        producer_version=__version__,
    )
