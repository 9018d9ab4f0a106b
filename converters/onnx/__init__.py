"""ONNX out: graphs for onnxruntime, with the weights and the tokenizer inside."""
