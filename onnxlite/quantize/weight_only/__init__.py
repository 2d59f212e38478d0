"""Weights of few bits: packed in the file, decoded by ONNX nodes when the model is loaded."""
